//! Copies and casts, exactly.

use seqpar::dtype::{Dtype, round_to};
use seqpar::kernel::spec::{Kernel, Pack};

use crate::support::tensors::{How, Values, assert_same, isas, launch, random_operands};
use crate::{DTYPES, fresh};

#[test]
fn copies_round_once_to_nearest_even() {
    let mut rng = fresh("pack");
    for src_dtype in DTYPES {
        for dst_dtype in DTYPES {
            let copies = (0..3).map(|_| [rng.within(1, 2), rng.within(0, 70), rng.within(1, 3), rng.within(1, 80)]);
            let kernel = Kernel::Pack(Pack { src_dtype, dst_dtype, copies: copies.collect() });
            let inputs = random_operands(&kernel, &mut rng);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                for pair in got.chunks(2) {
                    let rounded = pair[0].map(|_, x| round_to(dst_dtype, x));
                    let want = Values { dtype: dst_dtype, ..rounded };
                    assert_same(&format!("{kernel:?} {how:?}"), &pair[1], &want);
                }
            }
        }
    }
}

#[test]
fn integers_and_masks_are_copied_as_they_are() {
    let mut rng = fresh("pack integers");
    for dtype in [Dtype::I32, Dtype::U8] {
        let kernel = Kernel::Pack(Pack { src_dtype: dtype, dst_dtype: dtype, copies: vec![[2, 33, 1, 5]] });
        let mut inputs = random_operands(&kernel, &mut rng);
        inputs[0].data.iter_mut().for_each(|x| *x = rng.below(256) as f32);
        inputs[1].data.iter_mut().for_each(|x| *x = 0.0);
        for isa in isas() {
            let got = launch(&kernel, &inputs, &How::random(isa, &mut rng));
            assert_same(dtype.name(), &got[1], &inputs[0]);
        }
    }
}
