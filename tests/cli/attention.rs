//! `seqpar attention`: values against f64, bits over ranks and strategies.

use safetensors::tensor::Dtype;

use super::files::{Folder, Tensor, Tensors, named};
use super::oracle::{assert_near, attention_file};

/// Everything at once: joint text, grouped heads, a mask that differs per sample.
fn joint(dtype: Dtype, seed: usize) -> Tensors {
    let (b, n, t, h, hkv, d) = (2, 37, 5, 6, 2, 16);
    let mask: Vec<u8> = (0..b * (t + n)).map(|i| u8::from(i % 7 != seed % 7 && (i < t + n || i % 3 != 0))).collect();
    named([
        ("q", Tensor::waves(dtype, &[b, n, h, d], seed)),
        ("k", Tensor::waves(dtype, &[b, n, hkv, d], seed + 1)),
        ("v", Tensor::waves(dtype, &[b, n, hkv, d], seed + 2)),
        ("text_q", Tensor::waves(dtype, &[b, t, h, d], seed + 3)),
        ("text_k", Tensor::waves(dtype, &[b, t, hkv, d], seed + 4)),
        ("text_v", Tensor::waves(dtype, &[b, t, hkv, d], seed + 5)),
        ("key_mask", Tensor::u8(&[b, t + n], &mask)),
    ])
}

fn cross(queries: usize, keys: usize) -> Tensors {
    named([
        ("q", Tensor::waves(Dtype::F32, &[1, queries, 4, 8], 1)),
        ("k", Tensor::waves(Dtype::F32, &[1, keys, 4, 8], 2)),
        ("v", Tensor::waves(Dtype::F32, &[1, keys, 4, 8], 3)),
    ])
}

fn check_against_f64(input: &Tensors, output: &Tensors, tolerance: f64) {
    let (image, text, lse) = attention_file(input);
    assert_near("out", &output["out"].values(), &image, tolerance);
    assert_near("lse", &output["lse"].values(), &lse, tolerance.min(1e-5));
    assert_eq!(output["out"].shape, input["q"].shape);
    assert_eq!(output["out"].dtype, input["q"].dtype);
    if let Some(text_q) = input.get("text_q") {
        assert_near("text_out", &output["text_out"].values(), &text, tolerance);
        assert_eq!(output["text_out"].shape, text_q.shape);
    }
}

#[test]
fn one_rank_is_near_f64_and_more_ranks_have_its_bits() {
    for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::F16, 2e-3), (Dtype::BF16, 2e-2)] {
        let folder = Folder::new();
        let input = joint(dtype, 1);
        folder.write("in", &input);
        folder.ok("attention --input in --output one");
        let one = folder.read("one");
        check_against_f64(&input, &one, tolerance);
        assert_eq!(one["lse"].shape, [2, 6, 42]);
        for (ranks, strategy, more) in [
            (2, "ulysses", ""),
            (3, "kv-gather", "--text replicate"),
            (4, "ulysses", "--text replicate --threads 8"),
            (4, "usp", "--ulysses 4 --ring 1"),
            (3, "auto", ""),
        ] {
            folder.ok(&format!("attention --input in --output many --ranks {ranks} --strategy {strategy} {more}"));
            assert!(folder.read("many") == one, "{strategy} on {ranks} ranks {more} changed a bit of {dtype:?}");
        }
        for (ranks, strategy) in [(3, "ring --text replicate"), (4, "usp --ulysses 2 --ring 2")] {
            folder.ok(&format!("attention --input in --output many --ranks {ranks} --strategy {strategy}"));
            check_against_f64(&input, &folder.read("many"), tolerance);
        }
    }
}

#[test]
fn cross_attention_takes_fewer_keys_than_ranks() {
    let folder = Folder::new();
    let input = cross(9, 2);
    folder.write("in", &input);
    folder.ok("attention --input in --output one");
    check_against_f64(&input, &folder.read("one"), 1e-5);
    for strategy in ["kv-gather", "ulysses", "ring"] {
        folder.ok(&format!("attention --input in --output many --ranks 4 --strategy {strategy}"));
        check_against_f64(&input, &folder.read("many"), 1e-5);
        if strategy != "ring" {
            assert!(folder.read("many") == folder.read("one"), "{strategy} changed a bit");
        }
    }
}

#[test]
fn a_query_without_keys_gives_zero_and_minus_infinity() {
    let folder = Folder::new();
    let mut input = cross(5, 6);
    input.insert("key_mask".into(), Tensor::u8(&[1, 6], &[0; 6]));
    folder.write("in", &input);
    for flags in ["", "--ranks 3 --strategy ring", "--ranks 2 --strategy ulysses"] {
        folder.ok(&format!("attention --input in --output out {flags}"));
        let output = folder.read("out");
        assert!(output["out"].values().iter().all(|x| *x == 0.0), "{flags}");
        assert!(output["lse"].values().iter().all(|x| *x == f64::NEG_INFINITY), "{flags}");
    }
}

#[test]
fn json_tells_ranks_bytes_and_files_and_the_trace_is_a_chrome_trace() {
    let folder = Folder::new();
    folder.write("in", &cross(16, 16));
    let line = "attention --input in --output out --ranks 2 --strategy ulysses --trace trace.json";
    let value = folder.json(line);
    assert_eq!((value["strategy"].as_str(), value["ranks"].as_u64()), (Some("ulysses"), Some(2)));
    assert_eq!(value["output"], "out");
    // q, k, v and the output: each rank sends half of its half of each.
    let quarter = 16 * 4 * 8 * 4 / 4;
    assert_eq!(value["bytes_sent"], serde_json::json!([4 * quarter, 4 * quarter]));
    assert!(value["peak_bytes"].as_array().is_some_and(|ranks| ranks.len() == 2));
    // What is printed is a record that `seqpar report` reads.
    assert_eq!(value["reports"][0]["kind"], "measured");
    std::fs::write(folder.path("run.json"), value.to_string()).unwrap();
    folder.ok("report run.json -o run.html --trace again.json");
    assert_eq!(std::fs::read(folder.path("again.json")).unwrap(), std::fs::read(folder.path("trace.json")).unwrap());
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("trace.json")).unwrap()).unwrap();
    let events = trace.as_array().or(trace["traceEvents"].as_array()).unwrap();
    let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    let ranks: std::collections::BTreeSet<_> = spans.iter().map(|event| event["pid"].as_u64()).collect();
    assert_eq!(ranks.into_iter().collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert!(spans.iter().all(|event| event["ts"].is_number() && event["dur"].is_number()));
}

#[test]
fn a_link_model_changes_the_time_and_no_bit() {
    let folder = Folder::new();
    folder.write("in", &cross(16, 16));
    let line = "attention --input in --output out --ranks 2 --strategy kv-gather";
    folder.ok(line);
    let fast = folder.read("out");
    let slow = folder.json(&format!("{line} --link-us 100000"));
    assert!(slow["wall_ms"].as_f64().unwrap() >= 100.0, "{slow}");
    assert!(folder.read("out") == fast);
}
