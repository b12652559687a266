//! Rule 6: fused multiply-adds are written where they are meant.
//!
//! That device code is compiled with `-fmad=false`, and its host emulation with
//! `-ffp-contract=off`, belongs to the build of that code, which is yet to come. Here is the host's
//! share: whether a product and a sum are fused is one decision a kernel and instruction set,
//! never one of the optimiser, which would choose otherwise in a loop's body and in its tail.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{GateResidual, Kernel, Modulation, QkNormRope, RopePairs};

use crate::fresh;
use crate::support::tensors::{How, isas, launch, random_operands};

#[test]
fn rule6_a_gated_residual_is_fused_everywhere_or_nowhere() {
    let mut rng = fresh("rule 6, gate");
    for hidden in [1, 15, 16, 17, 300] {
        let (dtype, batch, rows, modulation) = (Dtype::F32, 2, 17, Modulation::PerSample);
        let kernel = Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation });
        let inputs = random_operands(&kernel, &mut rng);
        for isa in isas() {
            let got = launch(&kernel, &inputs, &How::random(isa, &mut rng));
            let with = |f: fn(f32, f32, f32) -> f32| {
                let gate = |i: usize| inputs[3].data[i / (rows * hidden) * hidden + i % hidden];
                let expected = |i: usize| f(gate(i), inputs[1].data[i], inputs[0].data[i]);
                got[2].data.iter().enumerate().all(|(i, x)| x.to_bits() == expected(i).to_bits())
            };
            assert!(with(f32::mul_add) || with(|a, b, c| a * b + c), "{hidden} channels on {}", isa.name());
        }
    }
}

#[test]
fn rule6_a_rotation_is_fused_everywhere_or_nowhere() {
    let mut rng = fresh("rule 6, rotation");
    for head_dim in [2, 20, 72] {
        let (heads, kv_heads, rope) = (3, 0, Some(RopePairs::Halves));
        let spec = QkNormRope { dtype: Dtype::F32, batch: 1, rows: 9, heads, kv_heads, head_dim, norm_eps: None, rope };
        let kernel = Kernel::QkNormRope(spec);
        let inputs = random_operands(&kernel, &mut rng);
        let half = head_dim / 2;
        for isa in isas() {
            let got = launch(&kernel, &inputs, &How::random(isa, &mut rng));
            // The first channel of each pair: a·cos − b·sin, one of the products possibly fused.
            let with = |f: fn(f32, f32, f32, f32) -> f32| {
                let same = |i: usize| {
                    let (row, pair) = (i / (heads * head_dim), i % head_dim);
                    let (a, b) = (inputs[0].data[i], inputs[0].data[i + half]);
                    let at = row * half + pair;
                    got[0].data[i].to_bits() == f(a, b, inputs[2].data[at], inputs[3].data[at]).to_bits()
                };
                (0..got[0].data.len()).filter(|i| i % head_dim < half).all(same)
            };
            let known = with(|a, b, cos, sin| a * cos - b * sin)
                || with(|a, b, cos, sin| a.mul_add(cos, -(b * sin)))
                || with(|a, b, cos, sin| (-b).mul_add(sin, a * cos));
            assert!(known, "head dim {head_dim} on {}", isa.name());
        }
    }
}
