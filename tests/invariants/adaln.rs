//! I12: modulation by sample, frame and token.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Kernel, Modulation, Norm, NormModulate};
use seqpar::plan::{Builder, Placement, Plan, Role, View};
use seqpar::shard::Split;

use crate::support::{Rng, Tensors, assert_same_bits, bytes, errors, f64s, options, run};
use crate::{counts, fresh};

#[test]
fn i12_modulation_belongs_to_its_sample_frame_and_token() {
    let mut rng = fresh();
    for norm in [Norm::Layer, Norm::Rms] {
        for modulation in [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken] {
            for rows in [1, 5] {
                let inputs = modulated_inputs(&mut rng, modulation, rows);
                let truth = norm_modulate_f64(&inputs, norm, modulation);
                let mut bits = None;
                for ranks in [1, 2, 3] {
                    if ranks > rows {
                        continue;
                    }
                    let split = counts(&mut rng, rows, ranks);
                    let plans = (0..ranks).map(|rank| modulate_plan(&split, rank, norm, modulation)).collect();
                    let (got, _) = run(plans, &inputs, options(1));
                    let name = format!("{norm:?} {modulation:?}, {rows} rows over {ranks}");
                    let (largest, _) = errors(&f64s(&got["y"]), &truth);
                    assert!(largest < 2e-5, "{name}: {largest:e}");
                    let first = bits.get_or_insert_with(|| got.clone());
                    assert_same_bits(&name, &got, first);
                }
            }
        }
    }
}

const HIDDEN: usize = 1152;

fn modulated_inputs(rng: &mut Rng, modulation: Modulation, rows: usize) -> Tensors {
    let mut inputs = Tensors::new();
    let vector_rows = if modulation == Modulation::PerToken { rows } else { 1 };
    inputs.insert("x".into(), rng.tensor(Dtype::F32, [3, rows, 1, HIDDEN], 2.0));
    let per_frame = modulation == Modulation::PerFrame;
    for name in if per_frame { &["shift", "scale", "shift0", "scale0"][..] } else { &["shift", "scale"] } {
        inputs.insert(name.to_string(), rng.tensor(Dtype::F32, [3, vector_rows, 1, HIDDEN], 1.0));
    }
    if per_frame {
        let frame: Vec<u8> = (0..3 * rows).map(|i| u8::from(i % 2 == 0)).collect();
        inputs.insert("frame".into(), bytes([3, rows, 1, 1], &frame));
    }
    inputs
}

fn modulate_plan(split: &Split, rank: usize, norm: Norm, modulation: Modulation) -> Plan {
    let mut b = Builder::new(rank, split.ranks());
    let stream = b.stream("compute");
    let map = split.map(rank);
    let (tokens, per_token) = (split.len(), modulation == Modulation::PerToken);
    let mut bound = |role, name: &str, dtype, rows: usize, width: usize| {
        let cut = rows > 1 || tokens == 1 || name == "x" || name == "y" || name == "frame";
        let index = [None, cut.then(|| map.clone()), None, None];
        let placement = Placement { tensor: name.into(), dims: [3, rows, 1, width], index };
        let local = if cut { map.len() } else { rows };
        vec![b.buffer(name, role, dtype, [3, local, 1, width], Some(placement))]
    };
    let vector_rows = if per_token { tokens } else { 1 };
    let mut operands: Vec<Vec<View>> = vec![
        bound(Role::Input, "x", Dtype::F32, tokens, HIDDEN),
        bound(Role::Output, "y", Dtype::F32, tokens, HIDDEN),
        bound(Role::Input, "shift", Dtype::F32, vector_rows, HIDDEN),
        bound(Role::Input, "scale", Dtype::F32, vector_rows, HIDDEN),
    ];
    if modulation == Modulation::PerFrame {
        operands.push(bound(Role::Input, "shift0", Dtype::F32, vector_rows, HIDDEN));
        operands.push(bound(Role::Input, "scale0", Dtype::F32, vector_rows, HIDDEN));
        operands.push(bound(Role::Input, "frame", Dtype::U8, tokens, 1));
    }
    let rows = map.len();
    let spec = NormModulate { dtype: Dtype::F32, batch: 3, rows, hidden: HIDDEN, norm, eps: 1e-6, modulation };
    b.kernel(stream, "norm+modulate", Kernel::NormModulate(spec), &operands);
    b.finish()
}

fn norm_modulate_f64(inputs: &Tensors, norm: Norm, modulation: Modulation) -> Vec<f64> {
    let [batch, rows, _, hidden] = inputs["x"].dims;
    let tensor = |name: &str| inputs.get(name).map(f64s).unwrap_or_default();
    let (x, frame) = (tensor("x"), tensor("frame"));
    let (first, second) = ((tensor("shift"), tensor("scale")), (tensor("shift0"), tensor("scale0")));
    let mut y = Vec::new();
    for (b, i) in (0..batch).flat_map(|b| (0..rows).map(move |i| (b, i))) {
        let row = &x[(b * rows + i) * hidden..][..hidden];
        let mean = if norm == Norm::Layer { row.iter().sum::<f64>() / hidden as f64 } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
        let takes_second = frame.get(b * rows + i) == Some(&0.0);
        let (shift, scale) = if takes_second { &second } else { &first };
        let at = if modulation == Modulation::PerToken { b * rows + i } else { b } * hidden;
        let value = |c: usize| (row[c] - mean) / (variance + 1e-6).sqrt() * (1.0 + scale[at + c]) + shift[at + c];
        y.extend((0..hidden).map(value));
    }
    y
}
