//! Conditioning: timestep and class.

use super::Isa;
use super::convert::round_slice;
use super::lanes::{Lanes, Task};
use super::math;
use super::tensor::{Rows, Tensor};
use crate::error::{Error, Result};
use crate::kernel::spec::{ClassEmbed, TimestepEmbed};

/// The angle is the f32 product of `t` and the rounded frequency, as frameworks compute it; its
/// cosine and sine are taken in f64 and rounded once.
pub(super) fn timestep(spec: &TimestepEmbed, operands: &[Vec<Tensor>]) {
    let (t, out) = (Rows::new(&operands[0]), Rows::new(&operands[1]));
    let half = spec.dim / 2;
    let mut row = vec![0.0f32; spec.dim];
    for b in 0..spec.batch {
        let mut time = [0.0f32];
        t.row(b, 0).load(0, &mut time);
        for i in 0..half {
            let frequency = (-(10000f64.ln()) * i as f64 / half as f64).exp() as f32;
            let (sin, cos) = f64::from(time[0] * frequency).sin_cos();
            row[i] = cos as f32;
            row[half + i] = sin as f32;
        }
        out.row(b, 0).store(0, &row);
    }
}

pub(super) fn class(isa: Isa, spec: &ClassEmbed, operands: &[Vec<Tensor>]) -> Result<()> {
    let [t_emb, table, class, out] = [0, 1, 2, 3].map(|i| Rows::new(&operands[i]));
    let (mut sum, mut row) = (vec![0.0f32; spec.hidden], vec![0.0f32; spec.hidden]);
    for b in 0..spec.batch {
        let label = class.row(b, 0).int(0);
        let label = usize::try_from(label).ok().filter(|&label| label < spec.classes).ok_or_else(|| {
            Error::Data(format!(
                "class {label} of sample {b}: the table has the classes 0 to {}",
                spec.classes as i64 - 1
            ))
        })?;
        t_emb.row(b, 0).load(0, &mut sum);
        table.row(0, label).load(0, &mut row);
        sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
        round_slice(spec.dtype, &mut sum);
        isa.run(Silu(&mut sum));
        out.row(b, 0).store(0, &sum);
    }
    Ok(())
}

struct Silu<'a>(&'a mut [f32]);

impl Task for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let p = self.0.as_mut_ptr();
        // SAFETY: input and output are the same slice of that length.
        unsafe { math::map(lanes, [p.cast_const()], p, self.0.len(), false, math::Silu) }
    }
}
