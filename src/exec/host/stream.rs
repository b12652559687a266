//! One stream of one rank: its commands, in order, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::external::{External, ExternalCall};
use super::memory::{Part, RankMemory};
use super::{Clock, RankPlan};
use crate::comm::local::{Call, Local};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::exec::{Span, SpanKind};
use crate::kernel::host::{Tensor, run_piece};
use crate::kernel::spec::Kernel;
use crate::plan::lower::{Command, EventId};
use crate::plan::{Access, OpId, OpKind};

/// What a stream needs to run.
pub(super) struct Stream<'a> {
    pub(super) rank: &'a RankPlan,
    pub(super) index: usize,
    pub(super) memory: &'a RankMemory<'a>,
    pub(super) transport: &'a Local<Part>,
    /// The registered calls, by index in `plan.externals`.
    pub(super) externals: &'a [Option<External>],
    pub(super) clock: &'a Clock,
    pub(super) threads: usize,
    pub(super) epoch: u64,
    pub(super) start: Instant,
}

/// What a stream did.
#[derive(Default)]
pub(super) struct Done {
    pub(super) spans: Vec<Span>,
    pub(super) bytes_sent: u64,
}

impl Stream<'_> {
    /// Runs all commands. A failure, panics included, fails the world and ends the stream.
    pub(super) fn run(self) -> Done {
        let mut done = Done::default();
        for (position, command) in self.rank.lowered.streams[self.index].iter().enumerate() {
            let result = match *command {
                Command::Wait(event) => self.wait(event, self.next_label(position)),
                Command::Record(event) | Command::Raise(event) => {
                    self.transport.record(self.rank.rank(), event.0 as usize, self.epoch);
                    Ok(())
                }
                Command::Run(op) => self.guarded(op, &mut done),
            };
            if let Err(error) = result {
                self.transport.fail(error);
                break;
            }
        }
        done
    }

    fn guarded(&self, op: OpId, done: &mut Done) -> Result<()> {
        if let Some(error) = self.transport.failure(self.rank.rank()) {
            return Err(error);
        }
        catch_unwind(AssertUnwindSafe(|| self.op(op, done))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(self.failed(op, format!("panicked: {text}")))
        })
    }

    fn op(&self, op: OpId, done: &mut Done) -> Result<()> {
        let plan = &self.rank.plan;
        let all = plan.accesses(op);
        let begin = Instant::now();
        match plan.op(op).kind {
            OpKind::Kernel(i) => return self.kernel(op, &plan.kernels[i as usize], done),
            OpKind::Comm(i) => {
                let lease = self.lease(op, all.iter())?;
                if lease.parts.iter().any(|part| !part.is_contiguous()) {
                    return Err(self.failed(op, "sends or receives a region that is no contiguous run: pack it".into()));
                }
                let comm = &plan.comms[i as usize];
                let call = Call {
                    epoch: self.epoch,
                    rank: self.rank.rank(),
                    label: self.rank.label(op),
                    comm,
                    group: &plan.groups[comm.group as usize],
                    leases: lease.parts.clone(),
                };
                let bytes = self.transport.run(call)?;
                done.bytes_sent += bytes;
                done.spans.push(self.span(op, SpanKind::Comm, begin, bytes, 0.0));
            }
            OpKind::Copy => {
                let mut lease = self.lease(op, all.iter())?;
                let bytes: u64 = lease.parts.iter().map(|part| part.len() as u64).sum();
                let copied = match lease.parts.as_mut_slice() {
                    [] => true,
                    [source, target] => target.copy_from(source),
                    _ => false,
                };
                if !copied {
                    return Err(
                        self.failed(op, "a copy has one source and one target, equal in shape and dtype".into())
                    );
                }
                self.pace(begin, Dtype::F32, 0.0, bytes as f64)?;
                done.spans.push(self.span(op, SpanKind::Copy, begin, bytes, 0.0));
            }
            OpKind::External(i) => {
                let Some(call) = &self.externals[i as usize] else {
                    return Err(self.failed(op, "no such external call is registered".into()));
                };
                let mut lease = self.lease(op, all.iter())?;
                let bytes = lease.parts.iter().map(|part| part.len() as u64).sum();
                let label = self.rank.label(op);
                call(ExternalCall { rank: self.rank.rank(), label, parts: &mut lease.parts })
                    .map_err(|error| self.failed(op, error.to_string()))?;
                done.spans.push(self.span(op, SpanKind::External, begin, bytes, 0.0));
            }
            OpKind::Mark => done.spans.push(self.span(op, SpanKind::Mark, begin, 0, 0.0)),
        }
        Ok(())
    }

    /// A gated kernel leases and runs piece by piece, each once its flags are raised.
    fn kernel(&self, op: OpId, kernel: &Kernel, done: &mut Done) -> Result<()> {
        let operands = kernel.operands();
        let gates = self.rank.gates.get(&op);
        let accesses = self.rank.plan.accesses(op);
        let piece_of = |access: &Access| operands.get(access.operand as usize).and_then(|operand| operand.piece);
        let run = |piece: usize, parts: &mut dyn Iterator<Item = (usize, Tensor)>| {
            let mut tensors: Vec<Vec<Tensor>> = operands.iter().map(|_| Vec::new()).collect();
            for (operand, tensor) in parts {
                match tensors.get_mut(operand) {
                    Some(views) => views.push(tensor),
                    None => return Err(self.failed(op, format!("the kernel has no operand {operand}"))),
                }
            }
            run_piece(kernel, piece, &tensors, self.threads).map_err(|error| self.failed(op, error.to_string()))
        };
        let Some(gates) = gates else {
            let begin = Instant::now();
            let lease = self.lease(op, accesses.iter())?;
            for piece in 0..kernel.pieces() {
                let begin = Instant::now();
                let mine = |access: &Access| piece_of(access).is_none_or(|of| of as usize == piece);
                let parts = accesses.iter().zip(&lease.parts).filter(|(access, _)| mine(access));
                run(piece, &mut parts.map(|(access, part)| (access.operand as usize, part.tensor())))?;
                let cost = kernel.piece_cost(piece);
                self.pace(begin, kernel.dtype(), cost.flops, cost.bytes)?;
            }
            let cost = kernel.cost();
            done.spans.push(self.span(op, SpanKind::Compute, begin, cost.bytes as u64, cost.flops));
            return Ok(());
        };
        for piece in 0..kernel.pieces() {
            for (_, flag) in gates.iter().filter(|(of, _)| *of as usize == piece) {
                self.wait(*flag, self.rank.label(op))?;
            }
            let begin = Instant::now();
            let mine = |access: &&Access| piece_of(access).is_none_or(|of| of as usize == piece);
            let lease = self.lease(op, accesses.iter().filter(mine))?;
            let parts = accesses.iter().filter(mine).zip(&lease.parts);
            run(piece, &mut parts.map(|(access, part)| (access.operand as usize, part.tensor())))?;
            let cost = kernel.piece_cost(piece);
            self.pace(begin, kernel.dtype(), cost.flops, cost.bytes)?;
            let span = self.span(op, SpanKind::Compute, begin, cost.bytes as u64, cost.flops);
            done.spans.push(Span { piece: Some(piece as u16), ..span });
        }
        Ok(())
    }

    fn wait(&self, event: EventId, label: &str) -> Result<()> {
        let name = &self.rank.event_names[event.0 as usize];
        self.transport.wait_event(self.rank.rank(), event.0 as usize, self.epoch, label, name)
    }

    fn lease<'m>(
        &'m self,
        op: OpId,
        accesses: impl Iterator<Item = &'m Access> + Clone,
    ) -> Result<super::memory::Lease<'m>> {
        self.memory.lease(&self.rank.plan, op.0, accesses).map_err(|why| self.failed(op, why))
    }

    /// Under the paced clock, sleeps until the work has lasted as long as the machine needs.
    fn pace(&self, begin: Instant, dtype: Dtype, flops: f64, bytes: f64) -> Result<()> {
        let Clock::Paced(machine) = self.clock else { return Ok(()) };
        let seconds = machine.kernel_s(dtype, flops, bytes);
        let end = Duration::try_from_secs_f64(seconds).ok().and_then(|lasts| begin.checked_add(lasts));
        let end = end.ok_or_else(|| {
            Error::Unsupported(format!(
                "an op would last {seconds} s on machine \"{}\": every rate must be above 0 and in its unit",
                machine.name
            ))
        })?;
        self.transport.rest(self.rank.rank(), end)
    }

    fn span(&self, op: OpId, kind: SpanKind, begin: Instant, bytes: u64, flops: f64) -> Span {
        let ns = |at: Instant| at.saturating_duration_since(self.start).as_nanos() as u64;
        Span {
            rank: self.rank.rank(),
            stream: self.index,
            op: self.rank.label(op).clone(),
            kind,
            begin_ns: ns(begin),
            end_ns: ns(Instant::now()),
            piece: None,
            bytes,
            flops,
        }
    }

    fn failed(&self, op: OpId, why: String) -> Error {
        Error::Rank { rank: self.rank.rank(), op: self.rank.label(op).to_string(), why }
    }

    /// Label of the op for which the command at `position` waits.
    fn next_label(&self, position: usize) -> &str {
        let rest = &self.rank.lowered.streams[self.index][position..];
        let next = rest.iter().find_map(|command| if let Command::Run(op) = command { Some(*op) } else { None });
        next.map_or("end of stream", |op| self.rank.label(op) as &Arc<str>)
    }
}
