//! `seqpar bench`: the form of its lines and records, and what it refuses. Times are not judged
//! here, the relations between them are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "support/stalls.rs"]
mod stalls;

use stalls::unless_stalled;

fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn bench(args: &str, folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seqpar")).arg("bench").args(args.split(' ')).current_dir(folder).output().unwrap()
}

/// The header lines and the rows, as words, of a run that succeeds.
fn lines(args: &str, folder: &Path) -> (Vec<String>, Vec<Vec<String>>) {
    let output = bench(args, folder);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect();
    let (headers, rows): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
    (headers.into_iter().map(str::to_string).collect(), rows.into_iter().map(words).collect())
}

fn record(folder: &Path, file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

fn refusal(args: &str, expected: &str) {
    let folder = folder("refusals");
    let output = bench(args, &folder);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args}: {text}");
    assert!(text.lines().count() == 1 && text.contains(expected), "{args}: {text}");
    assert!(output.stdout.is_empty(), "{args}: {}", String::from_utf8_lossy(&output.stdout));
}

const SMALL: &str = "--heads 8 --head-dim 8 --iterations 4";

#[test]
fn overlap_prints_a_row_for_each_strategy_and_size_and_records_it() {
    unless_stalled(|| {
        let folder = folder("overlap");
        let (headers, rows) = lines(&format!("overlap --tokens 32:64 {SMALL} --json o.json"), &folder);
        assert!(headers.iter().any(|line| line.contains("roof of") && line.contains("GFLOP/s")), "{headers:?}");
        let columns = headers.iter().find(|line| line.starts_with("# strategy")).expect("a line of column names");
        assert!(["T_gemm", "T_comm", "T_seq", "T_ovl", "H", "R", "spread"].iter().all(|name| columns.contains(name)));
        let strategies = ["fastseq", "ulysses", "ring", "usp", "megatron", "kv-gather"];
        let named: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].as_str(), row[3].as_str())).collect();
        let expected: Vec<(&str, &str)> =
            ["32", "64"].iter().flat_map(|tokens| strategies.map(|strategy| (strategy, *tokens))).collect();
        assert_eq!(named, expected);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
        let record = record(&folder, "o.json");
        assert_eq!(record["record"], 1);
        let recorded = record["rows"].as_array().unwrap();
        assert_eq!(recorded.len(), rows.len());
        // Each measurement and its prediction.
        let kinds: Vec<&Value> = record["reports"].as_array().unwrap().iter().map(|report| &report["kind"]).collect();
        assert_eq!(kinds, ["measured", "simulated"].repeat(rows.len()));
        for row in recorded {
            let p50 = |key: &str| row[key]["p50"].as_f64().unwrap();
            let (gemm, comm, seq, ovl) = (p50("t_gemm_us"), p50("t_comm_us"), p50("t_seq_us"), p50("time_us"));
            let close = |a: f64, b: f64| (a - b).abs() < 1e-6 * b.abs().max(1.0);
            assert!(close(row["hidden_fraction"].as_f64().unwrap(), (seq - ovl) / gemm.min(comm)), "{row}");
            assert!(close(row["regret"].as_f64().unwrap(), ovl / row["t_lb_us"].as_f64().unwrap() - 1.0), "{row}");
            assert!(row["t_sim_us"].as_f64().unwrap() > 0.0, "{row}");
            assert!(seq > gemm.max(comm), "one behind the other takes longer than either: {row}");
            assert_eq!(row["time_us"]["count"], 4);
        }
        // 32 tokens of 64 channels in f32 on 2 ranks: half of x, and half of the output's half.
        let fastseq = &recorded[0];
        assert_eq!(fastseq["bytes_per_rank"], 32 * 64 * 4 / 2 + 32 * 64 * 4 / 4);
        assert_eq!(fastseq["messages_per_rank"], 2);
        // What bench writes, report reads.
        let program = env!("CARGO_BIN_EXE_seqpar");
        let page =
            Command::new(program).args(["report", "o.json", "-o", "o.html"]).current_dir(&folder).status().unwrap();
        assert!(page.success() && folder.join("o.html").exists());
    });
}

#[test]
fn a_link_is_as_slow_as_it_was_asked_to_be() {
    unless_stalled(|| {
        let folder = folder("link");
        // 4 KiB of x and 2 KiB of output a rank at 1 MB/s, each transfer 2 ms late.
        let shape = "--tokens 32 --heads 8 --head-dim 8 --dtype f32 --iterations 3";
        lines(&format!("overlap {shape} --strategy fastseq --link-gbps 0.001 --link-us 2000 --json l.json"), &folder);
        let row = &record(&folder, "l.json")["rows"][0];
        let least = 6144.0 + 2.0 * 2000.0;
        let comm = row["t_comm_us"]["p50"].as_f64().unwrap();
        assert!(comm >= least && comm < 5.0 * least + 200_000.0, "{comm} us for {least}");
    });
}

#[test]
fn paced_times_are_the_machines() {
    unless_stalled(|| {
        let folder = folder("paced");
        let args = format!("overlap --tokens 64 {SMALL} --ranks 4 --strategy ulysses,ring --paced cpu --json p.json");
        let (headers, rows) = lines(&args, &folder);
        assert!(headers.iter().any(|line| line.contains("paced as \"cpu\"")));
        assert_eq!(rows.len(), 2);
        for row in record(&folder, "p.json")["rows"].as_array().unwrap() {
            assert!(row["stretch"].as_f64().unwrap() > 1.0, "{row}");
            // 80 GFLOP/s, 5 us a kernel: what this host needs is far above it.
            let flops_us = row["flops_per_rank"].as_f64().unwrap() / 80e9 * 1e6;
            let gemm = row["t_gemm_us"]["p50"].as_f64().unwrap();
            assert!(gemm > flops_us && gemm < 10.0 * flops_us + 1000.0, "{row}");
            // The simulator is held to a tenth where nothing else runs (tests/sim_host.rs).
            let (predicted, measured) = (row["t_sim_us"].as_f64().unwrap(), row["time_us"]["p50"].as_f64().unwrap());
            assert!((0.2..5.0).contains(&(predicted / measured)), "{row}");
        }
    });
}

#[test]
fn collectives_speak_as_nccl_tests_do() {
    let folder = folder("collectives");
    let (headers, rows) = lines("collectives --ranks 4 --bytes 4096:16KiB --iterations 3 --json c.json", &folder);
    assert!(headers.iter().any(|line| line.contains("size") && line.contains("busbw")));
    assert_eq!(rows.len(), 5 * 3);
    let factors = [
        ("all-gather", 0.75),
        ("all-to-all", 0.75),
        ("reduce-scatter", 0.75),
        ("all-reduce", 1.5),
        ("send-recv-ring", 1.0),
    ];
    for row in record(&folder, "c.json")["rows"].as_array().unwrap() {
        let of = |key: &str| row[key].as_f64().unwrap();
        let factor = factors.iter().find(|(name, _)| row["collective"] == *name).unwrap().1;
        let algbw = of("size_bytes") / row["time_us"]["p50"].as_f64().unwrap() / 1e3;
        assert!((of("algbw_gbps") / algbw - 1.0).abs() < 1e-9, "{row}");
        assert!((of("busbw_gbps") / of("algbw_gbps") / factor - 1.0).abs() < 1e-9, "{row}");
        assert_eq!(row["count"].as_u64().unwrap() * 4, row["size_bytes"].as_u64().unwrap());
        assert!(of("roof_us") > 0.0);
    }
}

#[test]
fn kernels_and_layers_have_a_roof() {
    unless_stalled(|| {
        let folder = folder("kernels");
        for (what, kernels) in [("attention", 1), ("adaln", 3), ("gemm", 4)] {
            let (_, rows) = lines(&format!("{what} --model dit-s/2 --tokens 64 --iterations 3 --json k.json"), &folder);
            assert_eq!(rows.len(), kernels, "{what}");
            for row in record(&folder, "k.json")["rows"].as_array().unwrap() {
                let fraction = row["roof_fraction"].as_f64().unwrap();
                // A shared machine may slow the roof down while it is measured.
                assert!(fraction > 0.0 && fraction < 3.0, "{row}");
                assert!(row["flops"].as_f64().unwrap() > 0.0 && row["bytes"].as_f64().unwrap() > 0.0);
            }
        }
        let (_, rows) = lines(
            "layer --model dit-s/2 --tokens 64 --strategy fastseq,single --ranks 1 --iterations 3 --json l.json",
            &folder,
        );
        assert_eq!(rows.len(), 2);
        let record = record(&folder, "l.json");
        assert_eq!(record["rows"][1]["strategy"], "single");
        assert_eq!(record["rows"][1]["hidden"], Value::Null);
        // qkv, proj and an MLP of 4 times the channels, and attention: 2·n·c²·(3 + 1 + 8) + 4·n²·c.
        let (n, c) = (2.0 * 64.0, 384.0);
        let flops = 24.0 * n * c * c + 4.0 * n * 64.0 * c;
        let counted = record["rows"][1]["flops"].as_f64().unwrap();
        assert!((counted / flops - 1.0).abs() < 0.05, "{counted} for {flops}");
    });
}

#[test]
fn what_cannot_be_measured_is_one_line() {
    refusal(&format!("overlap --tokens 32 {SMALL} --executor cuda"), "no CUDA executor");
    refusal("overlap --model gpt-2", "unknown model \"gpt-2\": use");
    refusal("overlap --heads 8 --head-dim 8", "no --tokens");
    refusal("overlap --tokens 8 --head-dim 8", "no --heads");
    refusal(&format!("overlap --tokens 64:32 {SMALL}"), "smaller size first");
    refusal(&format!("overlap --tokens 3q {SMALL}"), "use a size such as");
    refusal(&format!("overlap --tokens 32 {SMALL} --strategy magic"), "unknown strategy");
    refusal(&format!("overlap --tokens 32 {SMALL} --strategy auto"), "use all");
    refusal(&format!("overlap --tokens 32 {SMALL} --paced abacus"), "unknown machine");
    refusal(&format!("overlap --tokens 32 {SMALL} --ratio 1 --link-gbps 1"), "cannot be used with");
    refusal(&format!("overlap --tokens 32 {SMALL} --ranks 257"), "at most 256");
    refusal("overlap --tokens 32 --heads 8 --kv-heads 3 --head-dim 8", "no multiple");
    refusal("overlap --tokens 32 --heads 8 --head-dim 8 --ranks 4 --strategy usp --ulysses 3", "ulysses");
    refusal("layer --tokens 32 --heads 8 --head-dim 8 --ranks 2 --strategy single", "one rank");
    refusal("collectives --ranks 1", "use 2 to 256");
    refusal("collectives --ranks 4 --bytes 8", "less than one element");
    refusal("collectives --collective all-hail", "unknown collective");
    refusal("gemm --tokens 1g --heads 8 --head-dim 8", "4294967295");
}
