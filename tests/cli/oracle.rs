//! Attention and linear layers in f64, as the words of the command line define them.

use super::files::{Tensor, Tensors};

/// Rows of `[B, rows, H, D]` as a function of sample, row, head and channel.
pub(crate) struct Rows {
    values: Vec<f64>,
    pub(crate) dims: [usize; 4],
}

impl Rows {
    pub(crate) fn new(values: Vec<f64>, dims: [usize; 4]) -> Self {
        assert_eq!(values.len(), dims.iter().product::<usize>());
        Self { values, dims }
    }

    fn of(tensor: &Tensor) -> Self {
        Self::new(tensor.values(), tensor.shape.clone().try_into().unwrap())
    }

    fn row(&self, b: usize, n: usize, h: usize) -> &[f64] {
        let [_, rows, heads, d] = self.dims;
        let at = ((b * rows + n) * heads + h) * d;
        &self.values[at..at + d]
    }

    /// Text in front of the image.
    fn after(self, text: Option<Self>) -> Self {
        let Some(text) = text else { return self };
        let [batch, image_rows, heads, d] = self.dims;
        let mut values = Vec::new();
        for b in 0..batch {
            for part in [&text, &self] {
                let size = part.dims[1] * heads * d;
                values.extend_from_slice(&part.values[b * size..(b + 1) * size]);
            }
        }
        Self::new(values, [batch, text.dims[1] + image_rows, heads, d])
    }
}

/// Output `[B, T+N, H, D]` and log-sum-exp `[B, H, T+N]`.
pub(crate) fn attention(q: &Rows, k: &Rows, v: &Rows, mask: Option<&[u8]>) -> (Rows, Vec<f64>) {
    let [batch, queries, heads, d] = q.dims;
    let (keys, group) = (k.dims[1], heads / k.dims[2]);
    let mut out = Rows::new(vec![0.0; batch * queries * heads * d], q.dims);
    let mut lse = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..queries {
                let kept = (0..keys).filter(|j| mask.is_none_or(|mask| mask[b * keys + j] == 1));
                let dot = |j: usize| q.row(b, i, h).iter().zip(k.row(b, j, h / group)).map(|(a, b)| a * b).sum::<f64>();
                let scores: Vec<(usize, f64)> = kept.map(|j| (j, dot(j) / (d as f64).sqrt())).collect();
                let total: f64 = scores.iter().map(|(_, score)| score.exp()).sum();
                lse.push(total.ln());
                let at = ((b * queries + i) * heads + h) * d;
                for (j, score) in scores {
                    for (out, v) in out.values[at..at + d].iter_mut().zip(v.row(b, j, h / group)) {
                        *out += score.exp() / total * v;
                    }
                }
            }
        }
    }
    (out, lse)
}

/// What `seqpar attention` should write.
pub(crate) fn attention_file(input: &Tensors) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let joined = |name: &str| Rows::of(&input[name]).after(input.get(&format!("text_{name}")).map(Rows::of));
    let mask = input.get("key_mask").map(|mask| mask.bytes.as_slice());
    let (out, lse) = attention(&joined("q"), &joined("k"), &joined("v"), mask);
    let (text, image) = split(&out, input.get("text_q").map_or(0, |text| text.shape[1]));
    (image, text, lse)
}

/// Text and image rows.
pub(crate) fn split(rows: &Rows, text: usize) -> (Vec<f64>, Vec<f64>) {
    let [batch, all, heads, d] = rows.dims;
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for b in 0..batch {
        let sample = &rows.values[b * all * heads * d..(b + 1) * all * heads * d];
        front.extend_from_slice(&sample[..text * heads * d]);
        back.extend_from_slice(&sample[text * heads * d..]);
    }
    (front, back)
}

/// `x·wᵀ + bias` for `x [rows, inputs]`, `w [outputs, inputs]`.
pub(crate) fn linear(x: &[f64], w: &[f64], bias: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    let mut out = Vec::new();
    for row in x.chunks(inputs) {
        for o in 0..outputs {
            let sum: f64 = row.iter().zip(&w[o * inputs..(o + 1) * inputs]).map(|(a, b)| a * b).sum();
            out.push(sum + bias.map_or(0.0, |bias| bias[o]));
        }
    }
    out
}

/// Fails where a value is further from its reference than `tolerance`.
pub(crate) fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let near = got == want || (got - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(near, "{what}[{i}] is {got}, should be {want}");
    }
}
