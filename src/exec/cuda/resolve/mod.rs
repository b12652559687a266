//! Steps of a program with their addresses: what is left to do is to enqueue.

mod comm;
mod ops;

use super::link::Ports;
use super::memory::Addresses;
use super::prepared::{External, Prepared, RankPlan};
use super::program::{Action, Part};
use super::progress::Communication;
use crate::cuda::{DeviceMemory, Function, Geometry};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::TensorView;
use crate::kernel::cuda::{self, Launch};
use crate::plan::lower::EventId;
use crate::plan::{Access, Direction, OpId};

/// One call of the driver, of a communication library, or of an external op.
pub(super) enum Call {
    Wait(usize),
    Record(usize),
    Begin(usize),
    End(usize),
    Launch {
        function: Function,
        geometry: Geometry,
        params: Vec<u8>,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Writes zeros.
    Clear {
        to: u64,
        bytes: usize,
    },
    Staged {
        staging: usize,
        to: u64,
        from: u64,
        bytes: usize,
    },
    WaitFlag(u64),
    RaiseFlag(u64),
    #[cfg(feature = "nccl")]
    LowerFlag(u64),
    /// Says that a communication has ended: its place among those of its stream, from 1.
    Tell {
        address: u64,
        place: u32,
    },
    External {
        call: External,
        parts: Vec<TensorView>,
    },
    Group {
        communicator: usize,
        dtype: Dtype,
        messages: Vec<Message>,
    },
    /// These of [`Resolver::sides`], all at once: becomes calls once they are connected.
    Exchange(std::ops::Range<usize>),
}

/// One side of a message with another rank of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) peer: usize,
    pub(super) direction: Direction,
    pub(super) address: u64,
    pub(super) bytes: usize,
}

/// One call within a group: addresses, elements; peers and roots count in the communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Send { peer: usize, from: u64, elems: usize },
    Recv { peer: usize, to: u64, elems: usize },
    AllGather { from: u64, to: u64, elems: usize },
    Broadcast { root: usize, address: u64, elems: usize },
    ReduceScatter { from: u64, to: u64, elems: usize },
    AllReduce { from: u64, to: u64, elems: usize },
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

/// Where a rank's things lie on the device.
pub(super) struct Home {
    pub(super) addresses: Addresses,
    /// Address of its flag 0.
    pub(super) flags: u64,
    /// Address of the status of its op 0.
    pub(super) status: u64,
}

pub(super) struct Resolver<'a> {
    prepared: &'a Prepared,
    /// By rank, from the first that is here.
    homes: Vec<Home>,
    /// Address of the word that counts the ended communications, by stream; 0: nobody asks.
    told: Vec<u64>,
    /// Address of each piece of the program's scratch.
    pieces: Vec<u64>,
    pub(super) scratch: Vec<DeviceMemory>,
    pub(super) calls: Vec<Resolved>,
    pub(super) timed: Vec<Timed>,
    /// Communications by stream, in order, where their ends are told.
    pub(super) communications: Vec<Vec<Communication>>,
    /// By rank of the world.
    pub(super) bytes_sent: Vec<u64>,
    /// Messages with ranks whose memory this one reaches, in the order of the program.
    pub(super) sides: Vec<Side>,
    pub(super) ports: Option<Ports>,
    /// Stream and largest message of each staging.
    pub(super) stagings: Vec<(usize, usize)>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(prepared: &'a Prepared, homes: Vec<Home>, told: Vec<u64>, ports: Option<Ports>) -> Self {
        Self {
            prepared,
            homes,
            communications: told.iter().map(|_| Vec::new()).collect(),
            told,
            pieces: Vec::new(),
            scratch: Vec::new(),
            calls: Vec::new(),
            timed: Vec::new(),
            bytes_sent: vec![0; prepared.world()],
            sides: Vec::new(),
            ports,
            stagings: Vec::new(),
        }
    }

    pub(super) fn run(&mut self) -> Result<()> {
        self.place_scratch()?;
        let mut op = None;
        for step in &self.prepared.program.steps {
            let at = (step.rank, step.stream);
            match &step.action {
                Action::Wait(event) => self.push(at, None, Call::Wait(*event)),
                Action::Record(event) => self.push(at, None, Call::Record(*event)),
                Action::Begin(id) => {
                    op = Some(*id);
                    self.begin(at, *id);
                }
                Action::End(id) => self.end(at, *id),
                Action::Kernel(id, gates) => {
                    self.kernel(at, *id, gates).map_err(|e| self.rank(step.rank).failed(*id, e))?;
                }
                Action::Copy(id) => self.copy(at, *id).map_err(|e| self.rank(step.rank).failed(*id, e))?,
                Action::External(id) => self.external(at, *id)?,
                Action::Message { from, to } => self.message(at, *from, *to)?,
                Action::Group { op, group, calls } => self.group(at, *op, *group, calls)?,
                Action::Sum { from, to } => {
                    self.sum(at, from, *to).map_err(|e| self.rank(to.rank).failed(to.op, e))?;
                }
                Action::Raise(flag) => {
                    let address = self.flag(step.rank, *flag);
                    self.push(at, op, Call::RaiseFlag(address));
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, at: (usize, usize), op: OpId) {
        self.timed.push(Timed { rank: at.0, stream: at.1, op });
        let timer = self.timed.len() - 1;
        self.push(at, Some(op), Call::Begin(timer));
    }

    fn end(&mut self, at: (usize, usize), op: OpId) {
        let mine = |t: &Timed| (t.rank, t.stream, t.op) == (at.0, at.1, op);
        if let Some(timer) = self.timed.iter().rposition(mine) {
            self.push(at, Some(op), Call::End(timer));
        }
        let word = self.told.get(at.1).copied().unwrap_or(0);
        let plan = &self.rank(at.0).plan;
        if word != 0 && plan.comm(op).is_some() {
            self.communications[at.1].push(Communication::new(op, plan.label(op)));
            let place = self.communications[at.1].len() as u32;
            self.push(at, Some(op), Call::Tell { address: word, place });
        }
    }

    fn rank(&self, rank: usize) -> &'a RankPlan {
        self.prepared.rank(rank)
    }

    fn home(&self, rank: usize) -> &Home {
        &self.homes[rank - self.prepared.first_rank()]
    }

    fn push(&mut self, (rank, stream): (usize, usize), op: Option<OpId>, call: Call) {
        self.calls.push(Resolved { rank, stream, op, call });
    }

    fn flag(&self, rank: usize, flag: EventId) -> u64 {
        self.home(rank).flags + 4 * u64::from(flag.0)
    }

    fn device(&self) -> cuda::Device {
        let device = self.prepared.kernels.device();
        cuda::Device { sms: self.prepared.options.sms.map_or(device.sms, |sms| sms.clamp(1, device.sms)), ..device }
    }

    fn access(&self, part: Part) -> Result<Access> {
        let rank = self.rank(part.rank);
        let access = rank.plan.accesses(part.op).get(part.access);
        access.copied().ok_or_else(|| rank.failed(part.op, "has no such part"))
    }

    fn region(&self, part: Part) -> Result<(u64, usize)> {
        let access = self.access(part)?;
        self.home(part.rank).addresses.run(&self.rank(part.rank).plan, &access)
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
}
