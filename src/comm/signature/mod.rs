//! What a rank is about to do, in 32 bytes a call, so that ranks can compare it.
//!
//! A plan is static, so its communications are compared once, before anything is launched
//! ([`agree`]); a flight record holds the same signatures of what was really called, and the same
//! comparison ([`compare`]) finds the first call in which ranks differ. Nothing here knows a
//! device. Integers are little-endian. Tests: `tests/failure/mismatch.rs`.

mod agree;
mod compare;
mod plan;

use std::fmt;

pub use agree::agree;
pub(crate) use compare::names;
pub use compare::{Category, Finding, Rank, Side, compare};
pub use plan::signatures;

use crate::dtype::Dtype;
use crate::plan::CommKind;

/// One call of a communication, as its rank makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The communicator; in a plan, a number made of the ranks of the group.
    pub comm: u32,
    /// Index of the op among those of its communicator; the calls of one group share it.
    pub seq: u64,
    /// The plan's tag; 0 outside plans.
    pub tag: u32,
    /// What the op does.
    pub kind: CommKind,
    /// Which part of it this call is.
    pub part: Part,
    /// Element type.
    pub dtype: Dtype,
    /// The other end of a message, or the root of a broadcast.
    pub peer: Option<u32>,
    /// Number of elements.
    pub elems: u64,
}

/// Which part of an op a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The op in one call, which all ranks make alike.
    Whole,
    /// A message to the peer.
    Send,
    /// A message from the peer.
    Recv,
}

const KINDS: [CommKind; 6] = [
    CommKind::AllGather,
    CommKind::AllToAll,
    CommKind::ReduceScatter,
    CommKind::AllReduce,
    CommKind::Broadcast,
    CommKind::SendRecv,
];
const PARTS: [Part; 3] = [Part::Whole, Part::Send, Part::Recv];
const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I32, Dtype::U8];
const NOBODY: u32 = u32::MAX;

impl Signature {
    /// Length of [`Signature::to_bytes`].
    pub const BYTES: usize = 32;

    /// `comm u32, tag u32, seq u64, elems u64, peer u32, kind u8, part u8, dtype u8, 0`.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.comm.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.tag.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.elems.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.peer.unwrap_or(NOBODY).to_le_bytes());
        bytes[28] = place(&KINDS, &self.kind);
        bytes[29] = place(&PARTS, &self.part);
        bytes[30] = place(&DTYPES, &self.dtype);
        bytes
    }

    /// The call that the bytes say; `None` for bytes that say none.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
        let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        Some(Self {
            comm: word(0),
            tag: word(4),
            seq: long(8),
            elems: long(16),
            peer: Some(word(24)).filter(|&peer| peer != NOBODY),
            kind: *KINDS.get(bytes[28] as usize)?,
            part: *PARTS.get(bytes[29] as usize)?,
            dtype: *DTYPES.get(bytes[30] as usize)?,
        })
    }
}

/// Index in a table, or one that no table has.
fn place<T: PartialEq>(table: &[T], value: &T) -> u8 {
    table.iter().position(|known| known == value).map_or(u8::MAX, |at| at as u8)
}

impl Part {
    /// Name in words and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Send => "send",
            Self::Recv => "recv",
        }
    }

    /// The part of that name.
    pub fn named(name: &str) -> Option<Self> {
        PARTS.into_iter().find(|part| part.name() == name)
    }
}

/// The kind of communication of that name.
pub fn kind_named(name: &str) -> Option<CommKind> {
    KINDS.into_iter().find(|kind| kind.name() == name)
}

/// The element type of that name.
pub fn dtype_named(name: &str) -> Option<Dtype> {
    DTYPES.into_iter().find(|dtype| dtype.name() == name)
}

impl fmt::Display for Signature {
    /// `all-gather of 128 bf16`, `send 64 f32 to rank 3 (all-to-all)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, elems, dtype, peer, .. } = self;
        let rank = |f: &mut fmt::Formatter<'_>| match peer {
            Some(peer) => write!(f, " rank {peer}"),
            None => f.write_str(" nobody"),
        };
        match self.part {
            Part::Whole if *elems == 0 && peer.is_none() => write!(f, "{} in {dtype}", kind.name())?,
            Part::Whole => {
                write!(f, "{} of {elems} {dtype}", kind.name())?;
                if peer.is_some() {
                    f.write_str(" from")?;
                    rank(f)?;
                }
            }
            Part::Send => {
                write!(f, "send {elems} {dtype} to")?;
                rank(f)?;
            }
            Part::Recv => {
                write!(f, "receive {elems} {dtype} from")?;
                rank(f)?;
            }
        }
        match self.part {
            Part::Send | Part::Recv if *kind != CommKind::SendRecv => write!(f, " ({})", kind.name()),
            _ => Ok(()),
        }
    }
}

/// FNV-1a, the same on every build and machine.
pub(crate) fn digest(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
