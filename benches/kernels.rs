//! Rates of the host kernels beside what this machine can do: one row a case.
//!
//! `cargo bench --bench kernels -- [--quick] [--json PATH]`. The roof of a case is the slower of
//! its flops at the measured matrix rate and its bytes at the measured copy rate (read and
//! written bytes both count), with the same threads.

#[path = "../tests/kernel_support/mod.rs"]
mod kernel_support;

use std::time::Instant;

use kernel_support::{Random, attention, random_operands};
use seqpar::dtype::Dtype::{self, Bf16, F16, F32};
use seqpar::kernel::host::{instruction_set, run_piece};
use seqpar::kernel::spec::*;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let json = args.iter().position(|arg| arg == "--json").and_then(|i| args.get(i + 1));
    let repeats = if quick { 3 } else { 11 };
    let most = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    println!("{}, {}, {} repeats", cpu(), instruction_set(), repeats);
    println!(
        "{:<36} {:<22} {:>2} {:>9} {:>8} {:>8} {:>8} {:>7} {:>6}",
        "kernel", "shape", "t", "ms", "Gflop", "MB", "GFLOP/s", "GB/s", "roof"
    );
    let mut rows = Vec::new();
    for threads in 1..=most {
        let roof = Roof::measure(threads, repeats);
        rows.push(roof.row("matrixmultiply", "1024 x 1024 x 1024", threads, roof.gemm));
        rows.push(roof.row("copy", "64 MiB", threads, roof.copy));
        for (shape, kernel) in cases(quick) {
            let mut random = Random(1);
            let mut operands = random_operands(&kernel, &mut random, false);
            let tensors: Vec<_> = operands.iter_mut().map(kernel_support::Bound::tensors).collect();
            let ms = median(repeats, || run_piece(&kernel, 0, &tensors, threads).expect("operands fit"));
            let cost = kernel.cost();
            rows.push(roof.row(&kernel.name(), &shape, threads, (cost.flops, cost.bytes, ms)));
        }
    }
    if let Some(path) = json {
        let record = serde_json::json!({ "machine": cpu(), "instruction_set": instruction_set(), "rows": rows });
        let text = serde_json::to_string_pretty(&record).expect("plain values");
        std::fs::write(path, text + "\n").unwrap_or_else(|error| eprintln!("{path}: {error}"));
    }
}

fn cases(quick: bool) -> Vec<(String, Kernel)> {
    let n = if quick { 512 } else { 2048 };
    let long = if quick { 2048 } else { 16384 };
    let mut cases = Vec::new();
    for (dtype, dim) in [(F32, 72), (F16, 72), (Bf16, 72), (F32, 64), (F32, 128)] {
        let spec = attention(dtype, 1, [16, 16], dim, n, &[n]);
        cases.push((format!("[1,{n},16,{dim}]"), Kernel::Attention(spec)));
    }
    for (dtype, cols, epilogue) in
        [(F32, 3456, Epilogue::None), (F32, 4608, Epilogue::Gelu), (Bf16, 3456, Epilogue::None)]
    {
        let spec = Gemm::linear(dtype, 1, n, 1152, cols, true, epilogue);
        cases.push((format!("[1,{n},1152] x {cols}"), Kernel::Gemm(spec)));
    }
    let few = Gemm::linear(F32, 32, 16, 1152, 1152, true, Epilogue::None);
    cases.push(("[32,16,1152] x 1152".into(), Kernel::Gemm(few)));
    let (batch, hidden, norm, eps, modulation) = (1, 1152, Norm::Layer, 1e-6, Modulation::PerSample);
    let shape = |_: Dtype| format!("[1,{long},1,{hidden}]");
    for dtype in [F32, Bf16, F16] {
        let rows = long;
        let fused = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
        cases.push((shape(dtype), Kernel::GateResidualNormModulate(fused)));
    }
    let norms = NormModulate { dtype: F32, batch, rows: long, hidden, norm, eps, modulation };
    cases.push((shape(F32), Kernel::NormModulate(norms)));
    let gate = GateResidual { dtype: F32, batch, rows: long, hidden, modulation };
    cases.push((shape(F32), Kernel::GateResidual(gate)));
    let rope = QkNormRope {
        dtype: F32,
        batch,
        rows: long,
        heads: 16,
        kv_heads: 16,
        head_dim: 72,
        norm_eps: Some(eps),
        rope: Some(RopePairs::Interleaved),
    };
    cases.push((format!("[1,{long},16,72]"), Kernel::QkNormRope(rope)));
    let pack = Pack { src_dtype: F32, dst_dtype: F32, copies: vec![[1, long, 16, 72]] };
    cases.push((format!("[1,{long},16,72]"), Kernel::Pack(pack)));
    cases
}

/// What this machine can do with some threads: (flops, bytes, ms) of a product and of a copy.
struct Roof {
    gemm: (f64, f64, f64),
    copy: (f64, f64, f64),
}

impl Roof {
    fn measure(threads: usize, repeats: usize) -> Self {
        const N: usize = 1024;
        let mut buffers: Vec<_> =
            (0..threads).map(|_| [vec![1.0f32; N * N], vec![1.0; N * N], vec![0.0; N * N]]).collect();
        let gemm_ms = median(repeats, || {
            on_threads(&mut buffers, |[a, b, c]| {
                let n = N as isize;
                // SAFETY: three N × N matrices.
                unsafe {
                    matrixmultiply::sgemm(N, N, N, 1.0, a.as_ptr(), n, 1, b.as_ptr(), 1, n, 0.0, c.as_mut_ptr(), n, 1)
                }
            });
        });
        let bytes = 64usize << 20;
        let mut copies: Vec<_> =
            (0..threads).map(|_| (vec![1u8; bytes / threads], vec![0u8; bytes / threads])).collect();
        let copy_ms = median(repeats, || on_threads(&mut copies, |(from, to)| to.copy_from_slice(from)));
        let flops = 2.0 * (threads * N * N * N) as f64;
        Self { gemm: (flops, (threads * 12 * N * N) as f64, gemm_ms), copy: (0.0, 2.0 * bytes as f64, copy_ms) }
    }

    /// Prints a row and returns it.
    fn row(&self, name: &str, shape: &str, threads: usize, (flops, bytes, ms): (f64, f64, f64)) -> serde_json::Value {
        let per_second = |x: f64| x / (ms * 1e-3) / 1e9;
        let bound = (flops / self.gemm.0 * self.gemm.2).max(bytes / self.copy.1 * self.copy.2);
        let (gflops, gbytes, fraction) = (per_second(flops), per_second(bytes), bound / ms);
        println!(
            "{name:<36} {shape:<22} {threads:>2} {ms:>9.3} {:>8.2} {:>8.1} {gflops:>8.1} {gbytes:>7.1} {fraction:>6.2}",
            flops / 1e9,
            bytes / 1e6
        );
        serde_json::json!({
            "kernel": name, "shape": shape, "threads": threads, "ms": ms, "flops": flops, "bytes": bytes,
            "gflop_per_s": gflops, "gb_per_s": gbytes, "roof_fraction": fraction,
        })
    }
}

fn on_threads<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    std::thread::scope(|scope| {
        for item in items {
            scope.spawn(|| work(item));
        }
    });
}

/// Median time of `repeats` runs after one to warm up, in milliseconds.
fn median(repeats: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[repeats / 2]
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| info.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "));
    let value = |name| field(name).map_or("unknown", |(_, value)| value);
    format!("{} (family {}, model {})", value("model name"), value("cpu family"), value("model\t"))
}
