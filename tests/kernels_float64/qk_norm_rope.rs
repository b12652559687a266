//! Norm and rotation of heads against float64.

use seqpar::kernel::spec::{Kernel, QkNormRope, RopePairs};

use crate::support::tensors::{How, assert_close, half_ulp, isas, largest, launch, random_operands, truth};
use crate::{DTYPES, RAGGED, fresh};

const ROPES: [Option<RopePairs>; 3] = [None, Some(RopePairs::Interleaved), Some(RopePairs::Halves)];

#[test]
fn every_variant_equals_float64() {
    let mut rng = fresh("qk_norm_rope");
    for dtype in DTYPES {
        for norm_eps in [None, Some(1e-6)] {
            for rope in ROPES {
                for head_dim in [1, 2, 8, 20, 33, 64, 72, 80, 128, 130, 256] {
                    if rope.is_some() && head_dim % 2 == 1 {
                        continue;
                    }
                    let (batch, rows) = (rng.within(1, 3), RAGGED[rng.below(7)]);
                    let (heads, kv_heads) = (rng.below(4), rng.below(3));
                    let spec = QkNormRope { dtype, batch, rows, heads, kv_heads, head_dim, norm_eps, rope };
                    let kernel = Kernel::QkNormRope(spec);
                    let inputs = random_operands(&kernel, &mut rng);
                    let want = truth(&kernel, &inputs);
                    for isa in isas() {
                        let how = How::random(isa, &mut rng);
                        let got = launch(&kernel, &inputs, &how);
                        for x in [0, 1] {
                            let scale = largest(&want[x]);
                            // The norm is rounded before the rotation mixes two of its channels.
                            let twice = norm_eps.is_some() && rope.is_some();
                            let between = if twice { 1.5 * half_ulp(dtype, 1.5 * scale) } else { 0.0 };
                            let label = format!("{kernel:?} {how:?}");
                            assert_close(&label, &got[x], &want[x], |_| 6e-7 * scale + between);
                        }
                    }
                }
            }
        }
    }
}
