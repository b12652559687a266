//! What the end-to-end tests share: random tensors, a naive float64 attention on global tensors,
//! and a run of a world of plans on the host executor.
#![allow(dead_code, unreachable_pub)]

pub mod cases;
pub mod stalls;
pub mod tensors;
pub mod timing;
pub mod worlds;

use std::collections::BTreeMap;
use std::time::Duration;

use seqpar::dtype::{Dtype, round_to};
use seqpar::exec::Report;
use seqpar::exec::host::{HostOptions, HostTensor, prepare, run_tensors};
use seqpar::plan::{Plan, check_world};

pub type Tensors = BTreeMap<String, HostTensor>;

/// splitmix64 (Steele et al. 2014): small, and the seed is printed by whoever fails.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Between lo and hi, both included.
    pub fn within(&mut self, lo: usize, hi: usize) -> usize {
        lo + self.below(hi - lo + 1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f32 {
        let (a, b) = (self.uniform().max(1e-300), self.uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    pub fn tensor(&mut self, dtype: Dtype, dims: [usize; 4], scale: f32) -> HostTensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| round_to(dtype, self.normal() * scale)).collect();
        floats(dtype, dims, &values)
    }
}

/// A fresh seed, or the one in `SEQPAR_TEST_SEED` to repeat a failure.
pub fn seed() -> u64 {
    match std::env::var("SEQPAR_TEST_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed,
        None => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
    }
}

pub fn floats(dtype: Dtype, dims: [usize; 4], values: &[f32]) -> HostTensor {
    HostTensor::from_f32(dtype, dims, values).unwrap()
}

pub fn integers(dims: [usize; 4], values: &[i32]) -> HostTensor {
    HostTensor::from_i32(dims, values).unwrap()
}

pub fn bytes(dims: [usize; 4], values: &[u8]) -> HostTensor {
    HostTensor::from_u8(dims, values).unwrap()
}

pub fn options(threads: usize) -> HostOptions {
    HostOptions { threads, deadline: Duration::from_secs(60), ..HostOptions::default() }
}

/// Checks, prepares and runs the plans on global tensors.
pub fn run(plans: Vec<Plan>, inputs: &Tensors, options: HostOptions) -> (Tensors, Report) {
    let checked = check_world(plans).unwrap_or_else(|error| panic!("the law refuses: {error}"));
    let mut prepared = prepare(checked, options).unwrap();
    run_tensors(&mut prepared, inputs).unwrap_or_else(|error| panic!("run failed: {error}"))
}

pub fn f64s(tensor: &HostTensor) -> Vec<f64> {
    tensor.to_f32().iter().map(|&x| x as f64).collect()
}

/// Global attention in float64: text then image; returns out of image, out of text, lse.
pub struct Attended {
    pub out: Vec<f64>,
    pub text_out: Vec<f64>,
    pub lse: Vec<f64>,
}

fn concat(text: Option<&HostTensor>, image: &HostTensor) -> (Vec<f64>, usize) {
    let [batch, n, h, d] = image.dims;
    let t = text.map_or(0, |text| text.dims[1]);
    let (text, image) = (text.map(f64s).unwrap_or_default(), f64s(image));
    let mut rows = Vec::new();
    for b in 0..batch {
        rows.extend_from_slice(&text[b * t * h * d..(b + 1) * t * h * d]);
        rows.extend_from_slice(&image[b * n * h * d..(b + 1) * n * h * d]);
    }
    (rows, t + n)
}

/// `keep(b, j)` says whether key j (text first) of sample b counts.
pub fn attention_f64(inputs: &Tensors, keep: impl Fn(usize, usize) -> bool) -> Attended {
    let [batch, n, heads, d] = inputs["q"].dims;
    let kv_heads = inputs["k"].dims[2];
    let t = inputs.get("text_q").map_or(0, |text| text.dims[1]);
    let (q, queries) = concat(inputs.get("text_q"), &inputs["q"]);
    let (k, keys) = concat(inputs.get("text_k"), &inputs["k"]);
    let (v, _) = concat(inputs.get("text_v"), &inputs["v"]);
    let scale = 1.0 / (d as f64).sqrt();
    let mut all = vec![0.0; batch * queries * heads * d];
    let mut lse = vec![f64::NEG_INFINITY; batch * heads * queries];
    for b in 0..batch {
        for h in 0..heads {
            let kv = h * kv_heads / heads;
            for i in 0..queries {
                let q = &q[((b * queries + i) * heads + h) * d..][..d];
                let key = |j: usize| ((b * keys + j) * kv_heads + kv) * d;
                let score = |j: usize| scale * q.iter().zip(&k[key(j)..key(j) + d]).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<(usize, f64)> = (0..keys).filter(|&j| keep(b, j)).map(|j| (j, score(j))).collect();
                let m = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
                let l: f64 = scores.iter().map(|s| (s.1 - m).exp()).sum();
                if scores.is_empty() {
                    continue;
                }
                lse[(b * heads + h) * queries + i] = m + l.ln();
                let out = &mut all[((b * queries + i) * heads + h) * d..][..d];
                for (j, s) in scores {
                    let p = (s - m).exp() / l;
                    out.iter_mut().zip(&v[key(j)..key(j) + d]).for_each(|(o, v)| *o += p * v);
                }
            }
        }
    }
    let rows = |range: std::ops::Range<usize>| {
        let width = heads * d;
        (0..batch)
            .flat_map(|b| all[(b * queries + range.start) * width..(b * queries + range.end) * width].to_vec())
            .collect()
    };
    Attended { out: rows(t..t + n), text_out: rows(0..t), lse }
}

/// Largest absolute and root-mean-square difference.
pub fn errors(got: &[f64], want: &[f64]) -> (f64, f64) {
    assert_eq!(got.len(), want.len());
    let differences = got.iter().zip(want).map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() });
    let (mut largest, mut squares) = (0.0f64, 0.0);
    for d in differences {
        largest = if d.is_nan() { f64::INFINITY } else { largest.max(d) };
        squares += d * d;
    }
    (largest, (squares / got.len().max(1) as f64).sqrt())
}

pub fn assert_same_bits(name: &str, got: &Tensors, want: &Tensors) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{name}");
    for (tensor, got) in got {
        let want = &want[tensor];
        assert_eq!((got.dtype, got.dims), (want.dtype, want.dims), "{name}: {tensor}");
        let width = got.dtype.bytes();
        if let Some(at) = (0..got.bytes.len()).find(|&i| got.bytes[i] != want.bytes[i]) {
            let (g, w) = (got.to_f32(), want.to_f32());
            let at = at / width;
            panic!("{name}: {tensor}{:?} differs first at element {at}: {} is not {}", got.dims, g[at], w[at]);
        }
    }
}
