//! Records as test data, and the program that reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder of a test's own under target/.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn seqpar(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seqpar")).args(args).current_dir(folder).output().unwrap()
}

/// The one line on stderr of a refusal with that exit code.
pub(crate) fn refusal(args: &[&str], folder: &Path, code: i32) -> String {
    let output = seqpar(args, folder);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    text
}

/// Two ranks, each a projection, a transfer under a half of it, and attention behind a gap. Times
/// in ns; `label` is the projection's.
pub(crate) fn report(name: &str, kind: &str, label: &str, scale: u64) -> Value {
    let spans: Vec<Value> = (0..2u64)
        .flat_map(|rank| {
            [
                json!([rank, 0, 0, 0, null, 0, 100_000 * scale, 4096, 2e6]),
                json!([rank, 0, 1, 0, 1, 150_000 * scale, 300_000 * scale, 8192, 6e6]),
                json!([rank, 1, 2, 1, null, 50_000 * scale, 150_000 * scale, 65536, 0.0]),
            ]
        })
        .collect();
    json!({
        "name": name, "kind": kind, "strategy": "fastseq", "ranks": 2, "wall_ns": 300_000 * scale,
        "streams": [["compute", "comm"], ["compute", "comm"]],
        "bytes_sent": [65536, 65536], "peak_bytes": [1 << 20, 1 << 20],
        "ops": [label, "attention", "chunk 1 arrives"], "kinds": ["compute", "comm"],
        "spans": spans,
    })
}

pub(crate) fn row(strategy: &str, tokens: u64, us: f64) -> Value {
    let time = |p50: f64| json!({ "count": 100, "min": p50 * 0.9, "p50": p50, "p95": p50 * 1.2, "spread": 0.01 });
    json!({
        "bench": "overlap", "kind": "measured", "executor": "host", "model": "dit-xl/2", "strategy": strategy,
        "part": "attention", "ranks": 2, "tokens": tokens, "clock": "real", "bytes_per_rank": 65536,
        "time_us": time(us), "t_gemm_us": time(us * 0.6), "t_comm_us": time(us * 0.6), "t_seq_us": time(us * 1.2),
        "t_lb_us": us * 0.95, "hidden_fraction": 0.33, "regret": 0.05,
    })
}

pub(crate) fn kernel_row(kernel: &str, flops: f64, us: f64) -> Value {
    json!({
        "bench": "gemm", "kind": "measured", "kernel": kernel, "shape": "[1,256,64] x 64", "flops": flops,
        "bytes": 1e6, "time_us": { "count": 9, "min": us, "p50": us, "p95": us, "spread": 0.0 },
    })
}

pub(crate) fn record(rows: Vec<Value>, reports: Vec<Value>) -> Value {
    json!({
        "record": 1,
        "host": { "cpu": "a processor", "instruction_set": "avx2", "cores": 2 },
        "roof": { "threads": 2, "flops_per_s": 1e11, "bytes_per_s": 2e10 },
        "rows": rows,
        "reports": reports,
    })
}

/// Many ranks with many spans each.
pub(crate) fn large(ranks: u64, spans: u64) -> Value {
    let all: Vec<Value> = (0..ranks)
        .flat_map(|rank| {
            (0..spans).map(move |i| json!([rank, i % 2, 0, i % 2, null, i * 1000, i * 1000 + 900, 4096, 1e6]))
        })
        .collect();
    let streams: Vec<Value> = (0..ranks).map(|_| json!(["compute", "comm"])).collect();
    json!({
        "name": "many", "kind": "simulated", "strategy": "usp", "ranks": ranks, "wall_ns": spans * 1000,
        "streams": streams, "bytes_sent": vec![1; ranks as usize], "peak_bytes": vec![1; ranks as usize],
        "ops": ["op"], "kinds": ["compute", "comm"], "spans": all,
    })
}

pub(crate) fn write(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

/// The data that a page holds.
pub(crate) fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"record\">").expect("the page has data");
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).expect("the data is JSON")
}
