//! Launches of the row kernels. Vectors (16 bytes) and strides must be aligned; a hidden size
//! picks the first shape that holds it, whatever the number of rows.

use bytemuck::Zeroable;

use super::params::{SeqparRowKernel, SeqparVector, SeqparView};
use super::runs::{aligned, int, runs, view};
use super::variants::Block;
use super::{Device, Launch, half_name};
use crate::kernel::check::TensorView;
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};

/// Lanes that share a row and vectors of 8 channels that each holds, as in
/// `csrc/kernels/adaln.py`.
pub(crate) const SHAPES: [(u32, u32); 10] =
    [(16, 3), (16, 6), (16, 9), (32, 6), (32, 8), (32, 12), (64, 8), (128, 5), (128, 6), (256, 4)];

const THREADS: u32 = 256;
/// Blocks of an SM: enough loads in flight to fill the memory's bandwidth.
const BLOCKS_PER_SM: u32 = 2;

/// A block of the variant whose rows hold `capacity` channels.
pub(super) fn block(capacity: u32) -> Option<Block> {
    let (lanes, _) = SHAPES.iter().find(|(lanes, vectors)| 8 * lanes * vectors == capacity)?;
    Some(Block { threads: THREADS, shared_bytes: shared_bytes(*lanes) })
}

/// Two sums a warp, where several warps share a row.
fn shared_bytes(lanes: u32) -> u32 {
    if lanes > 32 { THREADS / lanes * 2 * (lanes / 32) * 4 } else { 0 }
}

type Operands = [Vec<TensorView>];

pub(super) fn norm_modulate(spec: &NormModulate, operands: &Operands, device: &Device) -> Result<Vec<Launch>, String> {
    let rows = Rows { batch: spec.batch, hidden: spec.hidden, dtype: half_name(spec.dtype)? };
    let vectors = Vectors { kind: spec.modulation, count: 2, operands: &operands[2..] };
    rows.launches("norm_modulate", [Some(&operands[0]), None, None, Some(&operands[1])], vectors, device, |p, v| {
        (p.shift, p.scale) = (v[0], v[1]);
        (p.rms, p.eps) = (i32::from(spec.norm == Norm::Rms), spec.eps);
    })
}

pub(super) fn gate_residual(spec: &GateResidual, operands: &Operands, device: &Device) -> Result<Vec<Launch>, String> {
    let rows = Rows { batch: spec.batch, hidden: spec.hidden, dtype: half_name(spec.dtype)? };
    let vectors = Vectors { kind: spec.modulation, count: 1, operands: &operands[3..] };
    let tensors = [Some(&operands[0]), Some(&operands[1]), Some(&operands[2]), None];
    rows.launches("gate_residual", tensors, vectors, device, |p, v| p.gate = v[0])
}

pub(super) fn gate_residual_norm_modulate(
    spec: &GateResidualNormModulate,
    operands: &Operands,
    device: &Device,
) -> Result<Vec<Launch>, String> {
    let rows = Rows { batch: spec.batch, hidden: spec.hidden, dtype: half_name(spec.dtype)? };
    let vectors = Vectors { kind: spec.modulation, count: 3, operands: &operands[4..] };
    let tensors = [Some(&operands[0]), Some(&operands[1]), Some(&operands[2]), Some(&operands[3])];
    rows.launches("gate_residual_norm_modulate", tensors, vectors, device, |p, v| {
        (p.gate, p.shift, p.scale) = (v[0], v[1], v[2]);
        (p.rms, p.eps) = (i32::from(spec.norm == Norm::Rms), spec.eps);
    })
}

pub(super) struct Vectors<'a> {
    pub(super) kind: Modulation,
    pub(super) count: usize,
    pub(super) operands: &'a Operands,
}

struct Rows {
    batch: usize,
    hidden: usize,
    dtype: &'static str,
}

impl Rows {
    /// One launch for each run of rows. `tensors`: x, branch, out, y.
    fn launches(
        &self,
        op: &str,
        tensors: [Option<&Vec<TensorView>>; 4],
        vectors: Vectors<'_>,
        device: &Device,
        set: impl Fn(&mut SeqparRowKernel, &[SeqparVector]),
    ) -> Result<Vec<Launch>, String> {
        let (lanes, _) = self.shape()?;
        let mut cut: Vec<&[TensorView]> = tensors.iter().flatten().map(|t| t.as_slice()).collect();
        match vectors.kind {
            Modulation::PerSample => {}
            Modulation::PerToken => cut.extend(vectors.operands.iter().map(Vec::as_slice)),
            Modulation::PerFrame => cut.push(&vectors.operands[2 * vectors.count]),
        }
        let capacity = self.capacity()?;
        let mut launches = Vec::new();
        for run in runs(&cut) {
            let count = self.batch * run.len();
            if count == 0 || self.hidden == 0 {
                continue;
            }
            let row_view = |t: Option<&Vec<TensorView>>| t.map_or(Ok(SeqparView::zeroed()), |t| view(t, &run));
            let [x, branch, out, y] = tensors;
            let mut p = SeqparRowKernel {
                x: row_view(x)?,
                branch: row_view(branch)?,
                out: row_view(out)?,
                y: row_view(y)?,
                batch: int(self.batch)?,
                rows: int(run.len())?,
                hidden: int(self.hidden)?,
                ..SeqparRowKernel::zeroed()
            };
            if vectors.kind == Modulation::PerFrame {
                p.frame = view(&vectors.operands[2 * vectors.count], &run)?;
            }
            let own: Vec<SeqparVector> =
                (0..vectors.count).map(|which| vectors.vector(which, &run)).collect::<Result<_, String>>()?;
            set(&mut p, &own);
            let views = [p.x, p.branch, p.out, p.y];
            let vector_views = own.iter().flat_map(|v| {
                [
                    SeqparView { address: v.address, batch: v.batch, row: v.row, head: 0 },
                    SeqparView { address: v.second, batch: v.second_batch, row: 0, head: 0 },
                ]
            });
            if !views.into_iter().chain(vector_views).all(|v| aligned(&v, 2)) {
                return Err("an address or stride is not a multiple of 16 bytes: copy the operand first".into());
            }
            let groups = (THREADS / lanes) as usize;
            launches.push(Launch {
                symbol: format!("{op}_{}_c{capacity}", self.dtype),
                grid: [count.div_ceil(groups).min((device.sms * BLOCKS_PER_SM) as usize) as u32, 1, 1],
                block: [THREADS, 1, 1],
                shared_bytes: shared_bytes(lanes),
                params: bytemuck::bytes_of(&p).to_vec(),
                maps: Vec::new(),
            });
        }
        Ok(launches)
    }

    fn shape(&self) -> Result<(u32, u32), String> {
        if !self.hidden.is_multiple_of(8) {
            return Err(format!("hidden size {}: use a multiple of 8", self.hidden));
        }
        let fits = |(lanes, vectors): &&(u32, u32)| (8 * lanes * vectors) as usize >= self.hidden;
        SHAPES.iter().find(fits).copied().ok_or_else(|| format!("hidden size {}: 8192 at most", self.hidden))
    }

    fn capacity(&self) -> Result<u32, String> {
        self.shape().map(|(lanes, vectors)| 8 * lanes * vectors)
    }
}

impl Vectors<'_> {
    pub(super) fn vector(&self, which: usize, run: &std::ops::Range<usize>) -> Result<SeqparVector, String> {
        let at = |i: usize, run: &std::ops::Range<usize>| view(&self.operands[i], run);
        let whole = 0..1;
        Ok(match self.kind {
            Modulation::PerSample => {
                let v = at(which, &whole)?;
                SeqparVector { address: v.address, batch: v.batch, ..SeqparVector::zeroed() }
            }
            Modulation::PerToken => {
                let v = at(which, run)?;
                SeqparVector { address: v.address, batch: v.batch, row: v.row, ..SeqparVector::zeroed() }
            }
            Modulation::PerFrame => {
                let (v, second) = (at(which, &whole)?, at(self.count + which, &whole)?);
                SeqparVector {
                    address: v.address,
                    second: second.address,
                    batch: v.batch,
                    second_batch: second.batch,
                    ..SeqparVector::zeroed()
                }
            }
        })
    }
}
