//! Launches of linear layers.
//!
//! [`linear`] computes one piece (the chunked form); [`gated`] all pieces in one launch that
//! waits inside for each. Parts whose weights come in several tensors become several parts of the
//! launch, pieces whose rows do become several chunks; more than a launch holds go to the next one.
//! Column tiles and row tiles follow a cost model ([`tiles`]); all of them give the same bits.
//!
//! Refuses a k of 0 or no multiple of 8, operands `a` and `w` off 16-byte boundaries, and `a` whose
//! heads lie apart. Outputs may lie anywhere, heads apart too.

mod qkv;
pub mod tiles;

use std::ops::Range;

use bytemuck::Zeroable;

pub use self::qkv::{Heads, projection};
use self::tiles::Tile;
use super::adaln::Vectors;
use super::params::{
    SEQPAR_EPILOGUE_GATED_RESIDUAL, SEQPAR_EPILOGUE_GELU, SEQPAR_EPILOGUE_NONE, SEQPAR_EPILOGUE_RESIDUAL,
    SEQPAR_EPILOGUE_SILU, SEQPAR_MAX_GEMM_CHUNKS, SEQPAR_MAX_GEMM_PARTS, SeqparGate, SeqparGemm, SeqparGemmChunk,
    SeqparGemmPart, SeqparGemmSm90, SeqparTensorMap, SeqparView,
};
use super::runs::{aligned, int, runs, view};
use super::{Arch, Device, Gate, Gates, Launch, Swizzle, TensorMap, half_name};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::check::{TensorView, check};
use crate::kernel::spec::{Epilogue, Gemm, Kernel, Modulation};

const MAX_PARTS: usize = SEQPAR_MAX_GEMM_PARTS as usize;
const MAX_CHUNKS: usize = SEQPAR_MAX_GEMM_CHUNKS as usize;

type Operands = [Vec<TensorView>];

/// The launches of one piece, with `tile` instead of the model's choice.
///
/// # Errors
/// Operands that do not fit the spec, and what the module refuses.
pub fn linear(
    spec: &Gemm,
    piece: usize,
    operands: &Operands,
    device: &Device,
    tile: Option<Tile>,
) -> Result<Vec<Launch>> {
    check(&Kernel::Gemm(spec.clone()), piece, operands)?;
    launches(spec, piece, operands, device, tile).map_err(Error::Unsupported)
}

/// All pieces in one launch, and the piece of each of its chunks: a status names the chunk.
///
/// # Errors
/// As [`linear`], and more tensors than one launch takes.
pub fn gated(
    spec: &Gemm,
    operands: &Operands,
    gates: &Gates<'_>,
    device: &Device,
    tile: Option<Tile>,
) -> Result<(Launch, Vec<usize>)> {
    (0..spec.chunks.len()).try_for_each(|piece| check(&Kernel::Gemm(spec.clone()), piece, operands))?;
    let whole = Whole::new(spec, operands, Some(gates), |_| Vec::new()).map_err(Error::Unsupported)?;
    let pieces = whole.runs.iter().map(|(piece, _)| *piece).collect();
    let launch = launch(&whole.params, spec, device, tile).map_err(Error::Unsupported)?;
    Ok((launch, pieces))
}

pub(super) fn launches(
    spec: &Gemm,
    piece: usize,
    operands: &Operands,
    device: &Device,
    tile: Option<Tile>,
) -> Result<Vec<Launch>, String> {
    let mut list = Vec::new();
    if spec.batch == 0 {
        return Ok(list);
    }
    let parts = parts(spec, operands)?;
    // The residual is read at the columns of its only part.
    let together = if has_residual(spec) { 1 } else { MAX_PARTS };
    for parts in parts.chunks(together) {
        let chunks: Vec<SeqparGemmChunk> =
            chunks(spec, piece, operands, parts, Vec::new())?.into_iter().map(|(_, chunk)| chunk).collect();
        for chunks in chunks.chunks(MAX_CHUNKS) {
            list.push(launch(&params(spec, parts, chunks, head_cols(spec, operands)?)?, spec, device, tile)?);
        }
    }
    Ok(list)
}

/// All pieces and parts as the parameters of one launch.
struct Whole {
    params: SeqparGemm,
    /// Piece and rows of each chunk.
    runs: Vec<(usize, Range<usize>)>,
}

impl Whole {
    /// `also` are tensors that cut the rows of a piece besides its operands.
    fn new<'a>(
        spec: &Gemm,
        operands: &'a Operands,
        gates: Option<&Gates<'_>>,
        also: impl Fn(usize) -> Vec<&'a [TensorView]>,
    ) -> Result<Self, String> {
        let parts = parts(spec, operands)?;
        let (mut list, mut runs) = (Vec::new(), Vec::new());
        let mut first = 0;
        for piece in 0..spec.chunks.len() {
            if gates.is_some_and(|gates| gates.first_piece == piece) {
                first = list.len();
            }
            let arrival = gates.and_then(|gates| gates.arrivals.get(piece).copied().flatten());
            for (run, mut chunk) in chunks(spec, piece, operands, &parts, also(piece))? {
                if let Some(Gate { flag, epoch }) = arrival {
                    chunk.arrival = SeqparGate { flag, epoch, reserved: 0 };
                }
                list.push(chunk);
                runs.push((piece, run));
            }
        }
        let max_parts = if has_residual(spec) { 1 } else { MAX_PARTS };
        if list.is_empty() || list.len() > MAX_CHUNKS || parts.len() > max_parts {
            return Err(format!(
                "{} tensors of rows, {} of weights: one launch takes 1 to {MAX_CHUNKS} and {max_parts}",
                list.len(),
                parts.len()
            ));
        }
        let mut params = params(spec, &parts, &list, head_cols(spec, operands)?)?;
        params.first_chunk = int(first % list.len())?;
        if let Some(gates) = gates {
            (params.status, params.timeout_ns) = (gates.status, gates.timeout_ns);
        }
        Ok(Self { params, runs })
    }
}

fn has_residual(spec: &Gemm) -> bool {
    matches!(spec.epilogue, Epilogue::Residual | Epilogue::GatedResidual(_))
}

/// Weight rows that are one tensor.
struct Part {
    /// Part of the spec and its first column there.
    of: usize,
    first: usize,
    weights: SeqparGemmPart,
}

fn parts(spec: &Gemm, operands: &Operands) -> Result<Vec<Part>, String> {
    if spec.k == 0 || !spec.k.is_multiple_of(8) {
        return Err(format!("k {}: use a positive multiple of 8", spec.k));
    }
    let per_part = 1 + usize::from(spec.bias);
    let mut list = Vec::new();
    for (of, &cols) in spec.parts.iter().enumerate() {
        let w = &operands[of * per_part];
        let bias = match spec.bias {
            true if cols > 0 => merged("bias", &operands[of * per_part + 1], &(0..1))?.address,
            _ => 0,
        };
        let parts = runs(&[w]).into_iter().take_while(|_| cols > 0);
        for run in parts {
            let v = merged("w", w, &run)?;
            require_aligned("w", &v)?;
            let weights = SeqparGemmPart {
                w: v.address,
                w_row: v.row,
                bias: if bias == 0 { 0 } else { bias + (run.start * spec.dtype.bytes()) as u64 },
                cols: int(run.len())?,
                ..SeqparGemmPart::zeroed()
            };
            list.push(Part { of, first: run.start, weights });
        }
    }
    Ok(list)
}

/// Index of operand `a` of a piece; its outputs follow, then the residual and the gate.
fn first_operand(spec: &Gemm, piece: usize) -> usize {
    let gate = match spec.epilogue {
        Epilogue::GatedResidual(kind) => kind.operand_count(1),
        _ => 0,
    };
    let own = 1 + spec.parts.len() + usize::from(has_residual(spec)) + gate;
    spec.parts.len() * (1 + usize::from(spec.bias)) + piece * own
}

fn outputs_of<'a>(spec: &Gemm, piece: usize, operands: &'a Operands) -> &'a Operands {
    let first = first_operand(spec, piece) + 1;
    &operands[first..first + spec.parts.len()]
}

/// The runs of rows of one piece that are one tensor in every operand.
fn chunks<'a>(
    spec: &Gemm,
    piece: usize,
    operands: &'a Operands,
    parts: &[Part],
    also: Vec<&'a [TensorView]>,
) -> Result<Vec<(Range<usize>, SeqparGemmChunk)>, String> {
    let head_cols = head_cols(spec, operands)?;
    let (a, outs) = (&operands[first_operand(spec, piece)], outputs_of(spec, piece, operands));
    let after = first_operand(spec, piece) + 1 + outs.len();
    let mut cut = also;
    cut.push(a);
    cut.extend(parts.iter().map(|part| outs[part.of].as_slice()));
    cut.extend(has_residual(spec).then(|| operands[after].as_slice()));
    let vectors = match spec.epilogue {
        Epilogue::GatedResidual(kind) => {
            let own = &operands[after + 1..after + 1 + kind.operand_count(1)];
            match kind {
                Modulation::PerSample => {}
                Modulation::PerToken => cut.push(&own[0]),
                Modulation::PerFrame => cut.push(&own[2]),
            }
            Some(Vectors { kind, count: 1, operands: own })
        }
        _ => None,
    };
    let mut list = Vec::new();
    for run in runs(&cut) {
        let mut chunk = SeqparGemmChunk { a: merged("a", a, &run)?, rows: int(run.len())?, ..Zeroable::zeroed() };
        require_aligned("a", &chunk.a)?;
        for (out, part) in chunk.out.iter_mut().zip(parts) {
            *out = output(&outs[part.of], &run, part.first, head_cols, spec.out_dtype)?;
        }
        // With a residual a launch has one part.
        let column = parts.first().map_or(0, |part| (part.first * spec.dtype.bytes()) as u64);
        if has_residual(spec) {
            chunk.residual = merged("residual", &operands[after], &run)?;
            chunk.residual.address += column;
        }
        if let Some(vectors) = &vectors {
            chunk.gate = vectors.vector(0, &run)?;
            chunk.gate.address += column;
            if vectors.kind == Modulation::PerFrame {
                chunk.gate.second += column;
                chunk.frame = view(&vectors.operands[2], &run)?;
            }
        }
        list.push((run, chunk));
    }
    Ok(list)
}

/// Rows of `C` channels, heads side by side.
fn merged(name: &str, tensors: &[TensorView], rows: &Range<usize>) -> Result<SeqparView, String> {
    if let Some(t) = tensors.iter().find(|t| heads_apart(t)) {
        return Err(format!("{name}: heads of {} lie {} elements apart: pack it first", t.shape[3], t.strides[2]));
    }
    Ok(SeqparView { head: 0, ..view(tensors, rows)? })
}

/// Columns from `first` on of an output.
fn output(
    tensors: &[TensorView],
    rows: &Range<usize>,
    first: usize,
    head_cols: usize,
    dtype: Dtype,
) -> Result<SeqparView, String> {
    let mut v = view(tensors, rows)?;
    let mut offset = first;
    if tensors.iter().any(heads_apart) {
        if !first.is_multiple_of(head_cols) {
            return Err(format!("out: weights that start at column {first}, inside a head of {head_cols}: pack them"));
        }
        offset = first / head_cols * v.head as usize;
    } else {
        v.head = int(head_cols)?.into();
    }
    v.address += (offset * dtype.bytes()) as u64;
    Ok(v)
}

fn heads_apart(t: &TensorView) -> bool {
    t.shape[1] > 0 && t.shape[2] > 1 && t.strides[2] != t.shape[3]
}

/// Channels of a head in outputs whose heads lie apart; 0 where none do.
fn head_cols(spec: &Gemm, operands: &Operands) -> Result<usize, String> {
    let outs = (0..spec.chunks.len()).flat_map(|piece| outputs_of(spec, piece, operands)).flatten();
    let mut dims: Vec<usize> = outs.filter(|t| heads_apart(t)).map(|t| t.shape[3]).collect();
    dims.dedup();
    match dims[..] {
        [] => Ok(0),
        [dim] => Ok(dim),
        _ => Err(format!("outputs with heads of {dims:?} channels apart: use one head dim")),
    }
}

fn require_aligned(name: &str, view: &SeqparView) -> Result<(), String> {
    if aligned(view, 2) {
        return Ok(());
    }
    Err(format!("{name}: an address or stride is not a multiple of 16 bytes: copy it first"))
}

/// The parameters of one launch; tiles are numbered when it is known how large they are.
fn params(spec: &Gemm, parts: &[Part], chunks: &[SeqparGemmChunk], head_cols: usize) -> Result<SeqparGemm, String> {
    let epilogue = match spec.epilogue {
        Epilogue::None => SEQPAR_EPILOGUE_NONE,
        Epilogue::Gelu => SEQPAR_EPILOGUE_GELU,
        Epilogue::Silu => SEQPAR_EPILOGUE_SILU,
        Epilogue::Residual => SEQPAR_EPILOGUE_RESIDUAL,
        Epilogue::GatedResidual(_) => SEQPAR_EPILOGUE_GATED_RESIDUAL,
    };
    let mut p = SeqparGemm {
        part_count: int(parts.len())?,
        chunk_count: int(chunks.len())?,
        batch: int(spec.batch)?,
        k: int(spec.k)?,
        epilogue: epilogue as i32,
        out_f32: i32::from(spec.out_dtype == Dtype::F32),
        head_cols: int(head_cols)?,
        ..SeqparGemm::zeroed()
    };
    for (slot, part) in p.parts.iter_mut().zip(parts) {
        *slot = part.weights;
    }
    p.chunks[..chunks.len()].copy_from_slice(chunks);
    Ok(p)
}

/// Numbers the tiles.
fn number_tiles(p: &mut SeqparGemm, tile: &Tile) -> Result<(), String> {
    let (mut rows, mut cols) = (0usize, 0usize);
    for chunk in &mut p.chunks[..p.chunk_count as usize] {
        chunk.first_tile = int(rows)?;
        rows += p.batch as usize * (chunk.rows as usize).div_ceil(tile.rows);
    }
    for part in &mut p.parts[..p.part_count as usize] {
        part.first_tile = int(cols)?;
        cols += (part.cols as usize).div_ceil(tile.cols);
    }
    int(rows * cols)?;
    (p.row_tiles, p.col_tiles) = (int(rows)?, int(cols)?);
    Ok(())
}

fn launch(p: &SeqparGemm, spec: &Gemm, device: &Device, tile: Option<Tile>) -> Result<Launch, String> {
    let dtype = half_name(spec.dtype)?;
    if spec.out_dtype != spec.dtype && spec.out_dtype != Dtype::F32 {
        return Err(format!("{} outputs of {} operands: use {} or f32", spec.out_dtype, spec.dtype, spec.dtype));
    }
    let tile = tile.unwrap_or_else(|| tiles::choose(device, &shape(p)));
    let mut p = *p;
    number_tiles(&mut p, &tile)?;
    let name = format!("gemm_{}_{dtype}_{}", tile.arch_name(), tile.name());
    Ok(match tile.arch {
        Arch::Sm80 => tile.launch(name, device, &p, bytemuck::bytes_of(&p), Vec::new()),
        Arch::Sm90 => {
            let tma = SeqparGemmSm90 { gemm: p, ..SeqparGemmSm90::zeroed() };
            tile.launch(name, device, &p, bytemuck::bytes_of(&tma), tensor_maps(&p, &tile))
        }
    })
}

/// What the choice of tiles depends on.
fn shape(p: &SeqparGemm) -> tiles::Shape {
    let chunks = &p.chunks[..p.chunk_count as usize];
    tiles::Shape {
        rows: chunks.iter().flat_map(|c| std::iter::repeat_n(c.rows as usize, p.batch as usize)).collect(),
        cols: p.parts[..p.part_count as usize].iter().map(|part| part.cols as usize).collect(),
        k: p.k as usize,
    }
}

/// Of the first bytes of the parameters, a `SeqparGemmSm90`.
fn tensor_maps(p: &SeqparGemm, tile: &Tile) -> Vec<(usize, TensorMap)> {
    let map = |rows: i32, samples: i32, view: &SeqparView, box_rows: usize| {
        let row_bytes = (view.row * 2).max(16) as u64;
        TensorMap {
            address: view.address,
            rank: 3,
            dims: [p.k as u64, rows as u64, samples as u64, 1, 1],
            // One sample has no distance to a next one.
            strides_bytes: [
                row_bytes,
                if view.batch == 0 { row_bytes * rows as u64 } else { view.batch as u64 * 2 },
                0,
                0,
            ],
            boxes: [64, box_rows as u32, 1, 1, 1],
            swizzle: Swizzle::B128,
        }
    };
    let chunks = p.chunks[..p.chunk_count as usize].iter().enumerate().filter(|(_, chunk)| chunk.rows > 0);
    let parts = p.parts[..p.part_count as usize].iter().enumerate();
    let of_chunks = chunks.map(|(i, chunk)| {
        let offset = std::mem::offset_of!(SeqparGemmSm90, a_maps) + i * size_of::<SeqparTensorMap>();
        (offset, map(chunk.rows, p.batch, &chunk.a, tile.rows))
    });
    let of_parts = parts.map(|(j, part)| {
        let w = SeqparView { address: part.w, row: part.w_row, ..SeqparView::zeroed() };
        let offset = std::mem::offset_of!(SeqparGemmSm90, w_maps) + j * size_of::<SeqparTensorMap>();
        (offset, TensorMap { rank: 2, ..map(part.cols, 1, &w, tile.cols) })
    });
    of_chunks.chain(of_parts).collect()
}
