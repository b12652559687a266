//! Embeddings of the timestep and the class against float64.

use seqpar::kernel::spec::{ClassEmbed, Kernel, TimestepEmbed};

use crate::support::tensors::{How, assert_close, half_ulp, isas, largest, launch, random_operands, truth};
use crate::{DTYPES, fresh};

#[test]
fn timestep_embedding_equals_float64() {
    let mut rng = fresh("timestep_embed");
    for dtype in DTYPES {
        for dim in [2, 8, 34, 256] {
            let kernel = Kernel::TimestepEmbed(TimestepEmbed { dtype, batch: 3, dim });
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                assert_close(&format!("{kernel:?} {how:?}"), &got[1], &want[1], |_| 1e-7);
            }
        }
    }
}

#[test]
fn class_embedding_equals_float64() {
    let mut rng = fresh("class_embed");
    for dtype in DTYPES {
        for hidden in [1, 17, 64, 300] {
            let kernel = Kernel::ClassEmbed(ClassEmbed { dtype, batch: 3, classes: 11, hidden });
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            let sum = largest(&[2.0 * largest(&want[0]), 2.0 * largest(&want[1])]);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                // The sum is rounded before SiLU, whose slope is below 1.1.
                let tolerance = 1.1 * half_ulp(dtype, sum) + 4e-7 * sum;
                assert_close(&format!("{kernel:?} {how:?}"), &got[3], &want[3], |_| tolerance);
            }
        }
    }
}
