//! Plans of one communication each, as nccl-tests measures them, for benchmarks and the simulator.
//!
//! Sizes and bandwidths are nccl-tests' (`doc/PERFORMANCE.md`): `bytes` is the whole array for
//! AllGather and ReduceScatter, one rank's array for AllReduce, all that a rank sends, its own
//! part included, for AllToAll, and one message for the ring of sends. Bus bandwidth is
//! `bytes / t` times [`Collective::bus_factor`]. Test: `tests/sim_collectives.rs`.

use std::str::FromStr;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::plan::{Builder, CommKind, Direction, Placement, Plan, Role, View};
use crate::shard::even_range;

/// A communication that can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Collective {
    /// Each rank's part to all.
    AllGather,
    /// A part for each rank.
    AllToAll,
    /// The sum, cut over the ranks.
    ReduceScatter,
    /// The sum, whole on every rank.
    AllReduce,
    /// A message to the next rank, one from the last.
    SendRecvRing,
}

impl Collective {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 5] =
        [Self::AllGather, Self::AllToAll, Self::ReduceScatter, Self::AllReduce, Self::SendRecvRing];

    /// Name in the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all-gather",
            Self::AllToAll => "all-to-all",
            Self::ReduceScatter => "reduce-scatter",
            Self::AllReduce => "all-reduce",
            Self::SendRecvRing => "send-recv-ring",
        }
    }

    /// Bus bandwidth over `bytes / t`, for `ranks` ranks.
    pub fn bus_factor(self, ranks: usize) -> f64 {
        let part = (ranks - 1) as f64 / ranks as f64;
        match self {
            Self::AllGather | Self::AllToAll | Self::ReduceScatter => part,
            Self::AllReduce => 2.0 * part,
            Self::SendRecvRing => 1.0,
        }
    }

    /// The plans of all ranks. `bytes` is rounded down to whole f32.
    ///
    /// # Errors
    /// Fewer than 2 ranks, less than an f32 a rank, or more than 15 GiB, as many as regions count.
    pub fn plans(self, bytes: u64, ranks: usize) -> Result<Vec<Plan>> {
        if ranks < 2 {
            return Err(Error::Mesh(format!("{ranks} ranks: {} needs at least 2", self.name())));
        }
        let elems = usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        if elems < ranks || bytes > 15 << 30 {
            return Err(Error::Shape(format!(
                "{bytes} bytes over {ranks} ranks: use at least {} and at most 15 GiB",
                4 * ranks
            )));
        }
        Ok((0..ranks).map(|rank| self.plan(elems, rank, ranks)).collect())
    }

    fn plan(self, elems: usize, rank: usize, ranks: usize) -> Plan {
        let mut b = Builder::new(rank, ranks);
        let stream = b.stream("comm");
        let part = |of: usize| even_range(elems, ranks, of);
        let others = (0..ranks).filter(|&other| other != rank);
        let mut transfers: Vec<(Direction, usize, View)> = Vec::new();
        let kind = match self {
            Self::AllGather => {
                let own = input(&mut b, part(rank).len());
                let all = temp(&mut b, elems);
                for other in others {
                    transfers.extend([(Direction::Send, other, own), (Direction::Recv, other, all.cols(part(other)))]);
                }
                CommKind::AllGather
            }
            Self::AllToAll => {
                let sent = input(&mut b, elems);
                let received = temp(&mut b, part(rank).len() * ranks);
                let slot = |of: usize| of * part(rank).len()..(of + 1) * part(rank).len();
                for other in others {
                    transfers.push((Direction::Send, other, sent.cols(part(other))));
                    transfers.push((Direction::Recv, other, received.cols(slot(other))));
                }
                CommKind::AllToAll
            }
            Self::ReduceScatter => {
                let addend = input(&mut b, elems);
                let sum = temp(&mut b, part(rank).len());
                transfers.extend((0..ranks).map(|other| (Direction::Send, other, addend.cols(part(other)))));
                transfers.push((Direction::Recv, rank, sum));
                CommKind::ReduceScatter
            }
            Self::AllReduce => {
                let addend = input(&mut b, elems);
                let sum = temp(&mut b, elems);
                transfers.extend((0..ranks).map(|other| (Direction::Send, other, addend)));
                transfers.push((Direction::Recv, rank, sum));
                CommKind::AllReduce
            }
            Self::SendRecvRing => {
                let sent = input(&mut b, elems);
                let received = temp(&mut b, elems);
                transfers.push((Direction::Send, (rank + 1) % ranks, sent));
                transfers.push((Direction::Recv, (rank + ranks - 1) % ranks, received));
                CommKind::SendRecv
            }
        };
        let tag = b.tag();
        let group: Vec<usize> = (0..ranks).collect();
        b.comm(stream, self.name(), kind, tag, &group, Dtype::F32, &transfers);
        b.finish()
    }
}

impl FromStr for Collective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|collective| collective.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::Unsupported(format!("unknown collective \"{name}\": use {known}"))
        })
    }
}

fn input(b: &mut Builder, elems: usize) -> View {
    let dims = [1, 1, 1, elems];
    let placement = Placement { tensor: format!("x of {}", b.rank()), dims, index: [None, None, None, None] };
    b.buffer("x", Role::Input, Dtype::F32, dims, Some(placement))
}

fn temp(b: &mut Builder, elems: usize) -> View {
    b.temp("y", Dtype::F32, [1, 1, 1, elems])
}
