//! Embeddings of timestep and class: a few vectors a run, in plain code.

use super::math::{round_row, silu};
use super::tensor::{Rows, Tensor};
use crate::error::{Error, Result};
use crate::kernel::spec::{ClassEmbed, TimestepEmbed};

pub(super) fn timestep(spec: &TimestepEmbed, operands: &[Vec<Tensor>]) {
    let half = spec.dim / 2;
    let mut row = vec![0.0; spec.dim];
    for b in 0..spec.batch {
        let mut t = [0.0];
        Rows(&operands[0]).load(b, 0, &mut t);
        for i in 0..half {
            let angle = f64::from(t[0]) * (-(10000f64.ln()) * i as f64 / half as f64).exp();
            row[i] = angle.cos() as f32;
            row[half + i] = angle.sin() as f32;
        }
        Rows(&operands[1]).store(b, 0, &row);
    }
}

pub(super) fn class(spec: &ClassEmbed, operands: &[Vec<Tensor>]) -> Result<()> {
    let mut embedding = vec![0.0; spec.hidden];
    let mut row = vec![0.0; spec.hidden];
    for b in 0..spec.batch {
        let class = Rows(&operands[2]).load_i32(b, 0);
        let index = usize::try_from(class).ok().filter(|class| *class < spec.classes).ok_or_else(|| {
            Error::Shape(format!("class {class} of sample {b}: the table has classes 0 to {}", spec.classes - 1))
        })?;
        Rows(&operands[0]).load(b, 0, &mut embedding);
        Rows(&operands[1]).load(0, index, &mut row);
        row.iter_mut().zip(&embedding).for_each(|(x, t)| *x += t);
        round_row(spec.dtype, &mut row);
        row.iter_mut().for_each(|x| *x = silu(*x));
        Rows(&operands[3]).store(b, 0, &row);
    }
    Ok(())
}
