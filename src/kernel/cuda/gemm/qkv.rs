//! Projection to queries, keys and values with QK norm and rotary embedding in its epilogue: the
//! bits of the linear layer followed by [`QkNormRope`].

use bytemuck::Zeroable;

use super::super::params::{SeqparGemmQkv, SeqparGemmQkvSm90, SeqparGemmSm90, SeqparQkv};
use super::super::runs::view;
use super::super::{Arch, Device, Gates, Launch, half_name};
use super::tiles::{self, Tile};
use super::{Operands, Whole, merged, number_tiles, shape, tensor_maps};
use crate::error::{Error, Result};
use crate::kernel::check::{TensorView, check};
use crate::kernel::spec::{Epilogue, Gemm, Kernel, QkNormRope, RopePairs};

/// The operands of [`QkNormRope`] beside q and k, which the projection writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heads<'a> {
    /// `[1, 1, 1, D]`, with a norm.
    pub q_weight: &'a [TensorView],
    /// As `q_weight`.
    pub k_weight: &'a [TensorView],
    /// `[1, rows, 1, D/2]` f32 of each piece's rows, with rotary embedding.
    pub cos: &'a [Vec<TensorView>],
    /// As `cos`.
    pub sin: &'a [Vec<TensorView>],
}

/// One launch for all pieces; part 0 of `spec` is q, part 1 is k, the others are left as they are.
/// Also the piece of each of its chunks, as [`super::gated`].
///
/// # Errors
/// As [`super::gated`]; an epilogue besides, parts that are no whole heads, head dims that no
/// variant holds, tables that do not fit the rows.
pub fn projection(
    spec: &Gemm,
    operands: &Operands,
    transform: &QkNormRope,
    heads: &Heads<'_>,
    gates: Option<&Gates<'_>>,
    device: &Device,
    tile: Option<Tile>,
) -> Result<(Launch, Vec<usize>)> {
    (0..spec.chunks.len()).try_for_each(|piece| check(&Kernel::Gemm(spec.clone()), piece, operands))?;
    let dim = transform.head_dim;
    let why = |e: String| Error::Unsupported(format!("projection to heads of {dim}: {e}"));
    fits(spec, transform, heads).map_err(why)?;
    let tables = |piece: usize| {
        let of_piece = |tables: &'_ [Vec<TensorView>]| tables.get(piece).cloned();
        [of_piece(heads.cos), of_piece(heads.sin)].into_iter().flatten().collect::<Vec<_>>()
    };
    let also: Vec<Vec<Vec<TensorView>>> = (0..spec.chunks.len()).map(tables).collect();
    let cuts = |piece: usize| also[piece].iter().map(Vec::as_slice).collect();
    let whole = Whole::new(spec, operands, gates, cuts).map_err(why)?;
    let qkv = qkv(transform, heads, &whole).map_err(why)?;
    let launch = launch(spec, transform, &whole, qkv, device, tile).map_err(why)?;
    Ok((launch, whole.runs.iter().map(|(piece, _)| *piece).collect()))
}

fn fits(spec: &Gemm, transform: &QkNormRope, heads: &Heads<'_>) -> Result<(), String> {
    let dim = transform.head_dim.max(1);
    if spec.epilogue != Epilogue::None || spec.out_dtype != spec.dtype || spec.dtype != transform.dtype {
        return Err("another epilogue, or another type: use the layer and QkNormRope one after the other".into());
    }
    if let Some(cols) = spec.parts.iter().find(|cols| !cols.is_multiple_of(dim)) {
        return Err(format!("a part of {cols} columns: use whole heads"));
    }
    let table_rows = |tables: &[Vec<TensorView>], piece: usize| -> usize {
        tables.get(piece).map_or(0, |t| t.iter().map(|t| t.shape[1]).sum())
    };
    for (piece, &rows) in spec.chunks.iter().enumerate().filter(|_| transform.rope.is_some()) {
        for tables in [heads.cos, heads.sin] {
            let wide = tables.get(piece).is_some_and(|t| t.iter().all(|t| t.shape[3] == dim / 2));
            if table_rows(tables, piece) != rows || !wide {
                return Err(format!("piece {piece}: cos and sin of [{rows}, {}] are wanted", dim / 2));
            }
        }
    }
    for weight in [heads.q_weight, heads.k_weight] {
        if transform.norm_eps.is_some() && weight.first().is_none_or(|w| w.shape[3] != dim) {
            return Err(format!("weights of {dim} channels are wanted"));
        }
    }
    Ok(())
}

fn qkv(transform: &QkNormRope, heads: &Heads<'_>, whole: &Whole) -> Result<SeqparQkv, String> {
    let mut p = SeqparQkv { halves: i32::from(transform.rope == Some(RopePairs::Halves)), ..SeqparQkv::zeroed() };
    if let Some(eps) = transform.norm_eps {
        p.eps = eps;
        for (slot, weight) in p.norm_weight.iter_mut().zip([heads.q_weight, heads.k_weight]) {
            *slot = merged("weight", weight, &(0..1))?.address;
        }
    }
    if transform.rope.is_some() {
        p.turned[..2].fill(1);
        for (i, (piece, run)) in whole.runs.iter().enumerate() {
            let (cos, sin) = (view(&heads.cos[*piece], run)?, view(&heads.sin[*piece], run)?);
            if i > 0 && (p.cos_row, p.sin_row) != (cos.row, sin.row) {
                return Err("cos or sin of several row strides: use one".into());
            }
            (p.cos[i], p.sin[i], p.cos_row, p.sin_row) = (cos.address, sin.address, cos.row, sin.row);
        }
    }
    Ok(p)
}

fn launch(
    spec: &Gemm,
    transform: &QkNormRope,
    whole: &Whole,
    qkv: SeqparQkv,
    device: &Device,
    tile: Option<Tile>,
) -> Result<Launch, String> {
    // Parts of the launch are those of the spec only where each has its weights in one tensor.
    if spec.parts.contains(&0) || whole.params.part_count as usize != spec.parts.len() {
        return Err("a part without columns, or with weights in several tensors: pack them".into());
    }
    let (dtype, dim) = (half_name(spec.dtype)?, transform.head_dim);
    let best = || tiles::estimates(device, &shape(&whole.params), Some(dim)).first().map(|best| best.tile);
    let tile = tile.or_else(best).ok_or("use 64, 72, 96 or 128")?;
    let mut p = whole.params;
    number_tiles(&mut p, &tile)?;
    let symbol = format!("gemm_qkv_{}_{dtype}_d{dim}_{}", tile.arch_name(), tile.name());
    Ok(match tile.arch {
        Arch::Sm80 => {
            let params = SeqparGemmQkv { gemm: p, qkv };
            tile.launch(symbol, device, &p, bytemuck::bytes_of(&params), Vec::new())
        }
        Arch::Sm90 => {
            let tma = SeqparGemmSm90 { gemm: p, ..SeqparGemmSm90::zeroed() };
            let params = SeqparGemmQkvSm90 { tma, qkv, ..SeqparGemmQkvSm90::zeroed() };
            tile.launch(symbol, device, &p, bytemuck::bytes_of(&params), tensor_maps(&p, &tile))
        }
    })
}
