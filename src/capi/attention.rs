//! Attention.

use std::ffi::c_void;

use super::abi::{AttentionArgs, KeySegment, QuerySegment};
use super::compute::compute;
use super::handle::held;
use super::kernels::Kernels;
use super::read::{growing, growing_array};
use super::status::{Fault, Outcome, Status, guard};
use super::tensor::{count, float, kv_heads, reserved, size};
use crate::dtype::Dtype;
use crate::kernel::TensorView;
use crate::kernel::spec::{self, Attention, Kernel};

/// More segments than this were never meant.
const MOST_SEGMENTS: usize = 1 << 12;

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_attention(
    kernels: *const Kernels,
    args: *const AttentionArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let (kernels, args) = (held(kernels)?, growing(args)?);
        let queries = growing_array(args.queries, args.query_count, MOST_SEGMENTS)?;
        let keys = growing_array(args.keys, args.key_count, MOST_SEGMENTS)?;
        let spec = spec(&args, &queries, &keys)?;
        let operands = operands(&spec, &args, &queries, &keys)?;
        compute(&kernels, &Kernel::Attention(spec), &operands, stream)
    })
}

fn spec(args: &AttentionArgs, queries: &[QuerySegment], keys: &[KeySegment]) -> Outcome<Attention> {
    let (heads, head_dim) = (count(args.heads, "heads")?, count(args.head_dim, "head_dim")?);
    let kv_heads = kv_heads(args.kv_heads, heads)?;
    if !(args.scale.is_finite() && args.scale >= 0.0) {
        return Err(Fault::argument(format!("scale is {}: use a positive one, or 0 for 1/sqrt(D)", args.scale)));
    }
    let masked = keys.iter().filter(|key| key.rows > 0 && !key.mask.is_absent()).count();
    if masked > 0 && masked < keys.iter().filter(|key| key.rows > 0).count() {
        return Err(Fault::argument("a mask in some segments of keys: give all of them one, or none"));
    }
    let segment = |key: &KeySegment| {
        reserved(key.reserved)?;
        let stream = usize::try_from(key.stream).ok().filter(|&stream| stream <= 1);
        let stream =
            stream.ok_or_else(|| Fault::argument(format!("stream is {}: 0 is text, 1 is image", key.stream)))?;
        Ok(spec::KeySegment { len: size(key.rows, "rows")?, base: size(key.first, "first")?, stream })
    };
    Ok(Attention {
        dtype: float(args.dtype)?,
        batch: size(args.batch, "batch")?,
        heads,
        kv_heads,
        head_dim,
        first_head: 0,
        first_kv_head: 0,
        group: heads / kv_heads,
        scale: if args.scale == 0.0 { (1.0 / (head_dim as f64).sqrt()) as f32 } else { args.scale },
        queries: queries.iter().map(|query| size(query.rows, "rows")).collect::<Outcome<_>>()?,
        keys: keys.iter().map(segment).collect::<Outcome<_>>()?,
        key_mask: masked > 0,
        key_len: !args.key_len.is_absent(),
        carry_in: false,
        carry_out: false,
    })
}

fn operands(
    spec: &Attention,
    args: &AttentionArgs,
    queries: &[QuerySegment],
    keys: &[KeySegment],
) -> Outcome<Vec<Vec<TensorView>>> {
    let (b, h, hkv, d) = (spec.batch, spec.heads, spec.kv_heads, spec.head_dim);
    let mut list = Vec::new();
    for (query, &rows) in queries.iter().zip(&spec.queries) {
        list.push(vec![query.q.read("q", spec.dtype, [b, rows, h, d])?]);
        list.push(vec![query.out.written("out", spec.dtype, [b, rows, h, d])?]);
        list.push(vec![query.lse.written("lse", Dtype::F32, [b, h, 1, rows])?]);
    }
    for (key, segment) in keys.iter().zip(&spec.keys) {
        list.push(vec![key.k.read("k", spec.dtype, [b, segment.len, hkv, d])?]);
        list.push(vec![key.v.read("v", spec.dtype, [b, segment.len, hkv, d])?]);
        if spec.key_mask {
            list.push(vec![key.mask.read("mask", Dtype::U8, [b, segment.len, 1, 1])?]);
        }
    }
    if spec.key_len {
        list.push(vec![args.key_len.read("key_len", Dtype::I32, [b, 2, 1, 1])?]);
    }
    Ok(list)
}
