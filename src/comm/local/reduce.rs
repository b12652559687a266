//! The sum of a reducing communication: in group order, in f32, rounded once.

use crate::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};

/// Writes to `out` the sum of `parts`, in their order. All have the length of `out`.
///
/// # Errors
/// A dtype that no reduction is defined for.
pub(super) fn sum(dtype: Dtype, parts: &[&[u8]], out: &mut [u8]) -> Result<(), String> {
    match dtype {
        Dtype::F32 => sum_with(parts, out, f32::from_ne_bytes, f32::to_ne_bytes),
        Dtype::F16 => {
            sum_with(parts, out, |b| f16_to_f32(u16::from_ne_bytes(b)), |x| u16::to_ne_bytes(f16_from_f32(x)))
        }
        Dtype::Bf16 => {
            sum_with(parts, out, |b| bf16_to_f32(u16::from_ne_bytes(b)), |x| u16::to_ne_bytes(bf16_from_f32(x)))
        }
        other => return Err(format!("no sum of {other}: reduce f32, f16 or bf16")),
    }
    Ok(())
}

fn sum_with<const N: usize>(
    parts: &[&[u8]],
    out: &mut [u8],
    load: impl Fn([u8; N]) -> f32,
    store: impl Fn(f32) -> [u8; N],
) {
    let Some((first, rest)) = parts.split_first() else { return };
    let (out, _) = out.as_chunks_mut::<N>();
    let (first, _) = first.as_chunks::<N>();
    // Blocks small enough to stay in the first cache while the parts are added one by one.
    const BLOCK: usize = 1024;
    let mut sums = [0f32; BLOCK];
    for (block, (out, first)) in out.chunks_mut(BLOCK).zip(first.chunks(BLOCK)).enumerate() {
        sums.iter_mut().zip(first).for_each(|(sum, x)| *sum = load(*x));
        for part in rest {
            let (part, _) = part.as_chunks::<N>();
            sums.iter_mut().zip(&part[block * BLOCK..][..out.len()]).for_each(|(sum, x)| *sum += load(*x));
        }
        out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = store(*sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_follows_the_order_of_its_parts_and_rounds_once() {
        let bytes = |xs: &[f32]| xs.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        let (a, b, c) = (bytes(&[1e8; 1500]), bytes(&[1.0; 1500]), bytes(&[-1e8; 1500]));
        let mut out = vec![0; a.len()];
        sum(Dtype::F32, &[&a, &b, &c], &mut out).unwrap();
        assert_eq!(out, bytes(&[(1e8f32 + 1.0) - 1e8; 1500]));
        sum(Dtype::F32, &[&a, &c, &b], &mut out).unwrap();
        assert_eq!(out, bytes(&[1.0; 1500]));
        // 256 + 1 + 1 in bf16: 258 if rounded once, 256 if after every addition.
        let half = |x: f32| bf16_from_f32(x).to_ne_bytes();
        let mut out = [0; 2];
        sum(Dtype::Bf16, &[&half(256.0), &half(1.0), &half(1.0)], &mut out).unwrap();
        assert_eq!(out, half(258.0));
        assert!(sum(Dtype::I32, &[&[0; 4]], &mut [0; 4]).is_err());
    }
}
