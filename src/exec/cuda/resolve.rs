//! Steps of a program with their addresses: what is left to do is to enqueue.

use super::memory::Addresses;
use super::prepared::{External, Prepared, RankPlan};
use super::program::{Action, Part};
use crate::cuda::{DeviceMemory, Function, Geometry};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::TensorView;
use crate::kernel::cuda::{self, Gate, Gates, Launch, gemm};
use crate::kernel::spec::{Kernel, Pack};
use crate::plan::lower::EventId;
use crate::plan::{Access, OpId, OpKind};

/// One call of the driver, or of an external op.
pub(super) enum Call {
    Wait(usize),
    Record(usize),
    Begin(usize),
    End(usize),
    Launch { function: Function, geometry: Geometry, params: Vec<u8> },
    Copy { to: u64, from: u64, bytes: usize },
    WaitFlag(u64),
    RaiseFlag(u64),
    External { call: External, parts: Vec<TensorView> },
}

/// A call, where it is enqueued, and for which op of which rank.
pub(super) struct Resolved {
    pub(super) rank: usize,
    pub(super) stream: usize,
    pub(super) op: Option<OpId>,
    pub(super) call: Call,
}

/// An op of a rank whose time is taken.
pub(super) struct Timed {
    pub(super) rank: usize,
    pub(super) stream: usize,
    pub(super) op: OpId,
}

pub(super) struct Resolver<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) addresses: Vec<Addresses>,
    /// Address of flag 0 of each rank.
    pub(super) flags: Vec<u64>,
    /// Device address of the status of each rank's op, by op.
    pub(super) status: Vec<u64>,
    pub(super) scratch: Vec<DeviceMemory>,
    /// Scratch of the sum that a part will hold.
    pub(super) sums: std::collections::HashMap<Part, u64>,
    pub(super) calls: Vec<Resolved>,
    pub(super) timed: Vec<Timed>,
    pub(super) bytes_sent: Vec<u64>,
}

impl Resolver<'_> {
    pub(super) fn run(&mut self) -> Result<()> {
        let mut op = None;
        for step in &self.prepared.program.steps {
            let at = (step.rank, step.stream);
            match &step.action {
                Action::Wait(event) => self.push(at, None, Call::Wait(*event)),
                Action::Record(event) => self.push(at, None, Call::Record(*event)),
                Action::Begin(id) => {
                    op = Some(*id);
                    self.timed.push(Timed { rank: step.rank, stream: step.stream, op: *id });
                    let timer = self.timed.len() - 1;
                    self.push(at, op, Call::Begin(timer));
                }
                Action::End(id) => {
                    let mine = |t: &Timed| (t.rank, t.stream, t.op) == (step.rank, step.stream, *id);
                    if let Some(timer) = self.timed.iter().rposition(mine) {
                        self.push(at, Some(*id), Call::End(timer));
                    }
                }
                Action::Kernel(id, gates) => {
                    self.kernel(at, *id, gates).map_err(|e| self.rank(step.rank).failed(*id, e))?;
                }
                Action::Copy(id) => self.copy(at, *id).map_err(|e| self.rank(step.rank).failed(*id, e))?,
                Action::External(id) => self.external(at, *id)?,
                Action::Message { from, to } => self.message(at, *from, *to)?,
                Action::Sum { from, to } => {
                    self.sum(at, from, *to).map_err(|e| self.rank(to.rank).failed(to.op, e))?;
                }
                Action::Store(part) => self.store(at, *part)?,
                Action::Raise(flag) => {
                    let address = self.flag(step.rank, *flag);
                    self.push(at, op, Call::RaiseFlag(address));
                }
            }
        }
        Ok(())
    }

    fn rank(&self, rank: usize) -> &RankPlan {
        &self.prepared.ranks[rank]
    }

    fn push(&mut self, (rank, stream): (usize, usize), op: Option<OpId>, call: Call) {
        self.calls.push(Resolved { rank, stream, op, call });
    }

    fn flag(&self, rank: usize, flag: EventId) -> u64 {
        self.flags[rank] + 4 * u64::from(flag.0)
    }

    fn device(&self) -> cuda::Device {
        let device = self.prepared.kernels.device();
        cuda::Device { sms: self.prepared.options.sms.map_or(device.sms, |sms| sms.clamp(1, device.sms)), ..device }
    }

    fn access(&self, part: Part) -> Result<Access> {
        let plan = &self.rank(part.rank).plan;
        plan.accesses(part.op)
            .get(part.access)
            .copied()
            .ok_or_else(|| self.rank(part.rank).failed(part.op, "has no such part"))
    }

    fn region(&self, part: Part) -> Result<(u64, usize)> {
        let access = self.access(part)?;
        self.addresses[part.rank].run(&self.rank(part.rank).plan, &access)
    }

    fn scratch(&mut self, bytes: usize) -> Result<u64> {
        let memory = DeviceMemory::new(bytes)?;
        let address = memory.address();
        self.scratch.push(memory);
        Ok(address)
    }

    fn launch(&mut self, at: (usize, usize), op: OpId, launch: &Launch) -> Result<()> {
        let function = self.prepared.kernels.prepare(launch)?;
        let params = self.prepared.kernels.encode(launch)?;
        let geometry =
            Geometry { grid: launch.grid, block: launch.block, shared_bytes: launch.shared_bytes, dependent: false };
        self.push(at, Some(op), Call::Launch { function, geometry, params });
        Ok(())
    }

    fn kernel(&mut self, at: (usize, usize), op: OpId, gates: &[(u16, EventId)]) -> Result<()> {
        let prepared = self.prepared;
        let plan = &prepared.ranks[at.0].plan;
        let kernel = plan.kernel(op).ok_or_else(|| Error::Unsupported("is no kernel".into()))?;
        let mut operands: Vec<Vec<TensorView>> = kernel.operands().iter().map(|_| Vec::new()).collect();
        for access in plan.accesses(op) {
            let view = self.addresses[at.0].view(plan, access)?;
            let operand = operands.get_mut(access.operand as usize);
            operand.ok_or_else(|| Error::Unsupported(format!("has no operand {}", access.operand)))?.push(view);
        }
        if let Kernel::Attention(_) = kernel {
            self.gather_keys(at, op, kernel, &mut operands)?;
        }
        if let (Kernel::Gemm(spec), false, true) = (kernel, gates.is_empty(), prepared.waits_inside()) {
            let one_each = (0..kernel.pieces()).all(|piece| gates.iter().filter(|g| g.0 as usize == piece).count() < 2);
            if one_each {
                let mut arrivals = vec![None; kernel.pieces()];
                for (piece, flag) in gates {
                    arrivals[*piece as usize] = Some(Gate { flag: self.flag(at.0, *flag), epoch: 1 });
                }
                let gates = Gates {
                    arrivals: &arrivals,
                    first_piece: arrivals.iter().position(Option::is_none).unwrap_or(0),
                    status: self.status[at.0] + 16 * u64::from(op.0),
                    timeout_ns: prepared.options.deadline.as_nanos() as u64,
                };
                let (launch, _) = gemm::gated(spec, &operands, &gates, &self.device(), None)?;
                return self.launch(at, op, &launch);
            }
        }
        // One launch a piece, each behind its own flags.
        let specs = kernel.operands();
        for piece in 0..kernel.pieces() {
            for (_, flag) in gates.iter().filter(|(of, _)| *of as usize == piece) {
                let address = self.flag(at.0, *flag);
                self.push(at, Some(op), Call::WaitFlag(address));
            }
            let mine = |i: usize| specs[i].piece.is_none_or(|of| of as usize == piece);
            let own: Vec<Vec<TensorView>> = operands
                .iter()
                .enumerate()
                .map(|(i, views)| if mine(i) { views.clone() } else { Vec::new() })
                .collect();
            for launch in cuda::launches(kernel, piece, &own, &self.device())? {
                self.launch(at, op, &launch)?;
            }
        }
        Ok(())
    }

    /// Keys, values and masks that come in several tensors, packed into one: key tiles are cut
    /// from a segment's start, wherever its parts came from.
    fn gather_keys(
        &mut self,
        at: (usize, usize),
        op: OpId,
        kernel: &Kernel,
        operands: &mut [Vec<TensorView>],
    ) -> Result<()> {
        for (spec, views) in kernel.operands().iter().zip(operands) {
            let filled = views.iter().filter(|view| !view.shape.contains(&0)).count();
            if !["k", "v", "mask"].contains(&spec.name) || filled < 2 {
                continue;
            }
            let whole = TensorView {
                address: self.scratch(spec.bytes() as usize)?,
                dtype: spec.dtype,
                shape: spec.shape,
                strides: [
                    spec.shape[1] * spec.shape[2] * spec.shape[3],
                    spec.shape[2] * spec.shape[3],
                    spec.shape[3],
                    1,
                ],
            };
            self.pack(at, op, std::mem::replace(views, vec![whole]), vec![whole])?;
        }
        Ok(())
    }

    fn pack(&mut self, at: (usize, usize), op: OpId, from: Vec<TensorView>, to: Vec<TensorView>) -> Result<()> {
        let [first, ..] = to.as_slice() else { return Ok(()) };
        let rows = to.iter().map(|view| view.shape[1]).sum();
        let shape = [first.shape[0], rows, first.shape[2], first.shape[3]];
        let kernel = Kernel::Pack(Pack { src_dtype: first.dtype, dst_dtype: first.dtype, copies: vec![shape] });
        for launch in cuda::launches(&kernel, 0, &[from, to], &self.device())? {
            self.launch(at, op, &launch)?;
        }
        Ok(())
    }

    fn copy(&mut self, at: (usize, usize), op: OpId) -> Result<()> {
        let plan = &self.prepared.ranks[at.0].plan;
        let views = plan.accesses(op).iter().map(|access| self.addresses[at.0].view(plan, access));
        let views: Vec<TensorView> = views.collect::<Result<_>>()?;
        match views.as_slice() {
            [] => Ok(()),
            [from, to] if from.shape == to.shape && from.dtype == to.dtype => self.pack(at, op, vec![*from], vec![*to]),
            _ => Err(Error::Shape("a copy has one source and one target, equal in shape and dtype".into())),
        }
    }

    fn external(&mut self, at: (usize, usize), op: OpId) -> Result<()> {
        let rank = &self.prepared.ranks[at.0];
        let OpKind::External(index) = rank.plan.op(op).kind else { return Ok(()) };
        let name = rank.plan.externals.get(index as usize).map(String::as_str).unwrap_or_default();
        let call = self.prepared.externals.get(name).cloned();
        let call = call.ok_or_else(|| {
            Error::Bind(format!("the plan calls \"{name}\": register it with Prepared::external before binding"))
        })?;
        let parts = rank.plan.accesses(op).iter().map(|access| self.addresses[at.0].view(&rank.plan, access));
        let parts = parts.collect::<Result<_>>()?;
        self.push(at, Some(op), Call::External { call, parts });
        Ok(())
    }

    fn message(&mut self, at: (usize, usize), from: Part, to: Part) -> Result<()> {
        let ((from_address, sent), (to_address, taken)) = (self.region(from)?, self.region(to)?);
        if sent != taken {
            let why = format!("takes {taken} bytes where rank {} sends {sent}", from.rank);
            return Err(self.rank(to.rank).failed(to.op, why));
        }
        if from.rank != to.rank {
            self.bytes_sent[from.rank] += sent as u64;
        }
        self.push(at, Some(to.op), Call::Copy { to: to_address, from: from_address, bytes: sent });
        Ok(())
    }

    fn sum(&mut self, at: (usize, usize), from: &[Part], to: Part) -> Result<()> {
        let (_, bytes) = self.region(to)?;
        let dtype = self.rank(to.rank).plan.comm(to.op).map_or(Dtype::F32, |comm| comm.dtype);
        let mut parts = Vec::new();
        for part in from {
            let (address, sent) = self.region(*part)?;
            if sent != bytes {
                return Err(Error::Shape(format!("sums {bytes} bytes where rank {} gives {sent}", part.rank)));
            }
            if part.rank != to.rank {
                self.bytes_sent[part.rank] += sent as u64;
            }
            parts.push(address);
        }
        let scratch = self.scratch(bytes)?;
        self.sums.insert(to, scratch);
        let launch = cuda::sum(dtype, &parts, scratch, bytes / dtype.bytes(), &self.device())?;
        self.launch(at, to.op, &launch)
    }

    fn store(&mut self, at: (usize, usize), part: Part) -> Result<()> {
        let (address, bytes) = self.region(part)?;
        let Some(&scratch) = self.sums.get(&part) else {
            return Err(self.rank(part.rank).failed(part.op, "stores a sum that nothing made"));
        };
        self.push(at, Some(part.op), Call::Copy { to: address, from: scratch, bytes });
        Ok(())
    }
}
