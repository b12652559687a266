//! What ranks tell each other through the store: a beat each period, and the first failure.
//! Little-endian, a string behind its length; bytes that are not a message are no message.

use crate::comm::signature::Signature;
use crate::error::{Failure, FailureKind};

/// Sign of life of a rank, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) count: u64,
    pub(super) positions: Vec<Position>,
}

/// Where a rank stands in a communicator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Digest of the communicator's name.
    pub(super) comm: u64,
    /// Number of ops called.
    pub(super) called: u64,
    /// Number of ops that have ended.
    pub(super) ended: u64,
    /// Digest of the op after those, in what all ranks of it have in common.
    pub(super) head: u64,
}

impl Beat {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let positions = self.positions.iter().flat_map(|p| [p.comm, p.called, p.ended, p.head]);
        [self.count].into_iter().chain(positions).flat_map(u64::to_le_bytes).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let count = reader.long()?;
        let mut positions = Vec::new();
        while !reader.0.is_empty() {
            let [comm, called, ended, head] = [reader.long()?, reader.long()?, reader.long()?, reader.long()?];
            positions.push(Position { comm, called, ended, head });
        }
        Some(Self { count, positions })
    }
}

/// A failure, and the call at which its rank stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) failure: Failure,
    pub(super) call: Option<Signature>,
}

impl Cause {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Failure { kind, rank, comm, seq, op, culprits, elapsed_ms } = &self.failure;
        let (code, first, second) = match kind {
            FailureKind::PeerLost { how } => (0, how.clone(), String::new()),
            FailureKind::Timeout { stage } => (1, stage.clone(), String::new()),
            FailureKind::Mismatch { mine, theirs } => (2, mine.clone(), theirs.clone()),
            FailureKind::Aborted { by } => (3, by.clone(), String::new()),
            // What only concerns that rank is for all others why they are stopped.
            other => (3, other.to_string(), String::new()),
        };
        let mut bytes = vec![code];
        bytes.extend((*rank as u64).to_le_bytes());
        bytes.extend(seq.unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend(elapsed_ms.to_le_bytes());
        bytes.extend((culprits.len() as u64).to_le_bytes());
        culprits.iter().for_each(|&culprit| bytes.extend((culprit as u64).to_le_bytes()));
        for text in [comm, op, &first, &second] {
            let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text);
        }
        bytes.extend(self.call.iter().flat_map(Signature::to_bytes));
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first()?;
        let mut reader = Reader(rest);
        let rank = reader.long()? as usize;
        let seq = Some(reader.long()?).filter(|&seq| seq != u64::MAX);
        let elapsed_ms = reader.long()?;
        let count = reader.long()?;
        let mut culprits = Vec::new();
        for _ in 0..count {
            culprits.push(reader.long()? as usize);
        }
        let [comm, op, first, second] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
        let kind = match code {
            0 => FailureKind::PeerLost { how: first },
            1 => FailureKind::Timeout { stage: first },
            2 => FailureKind::Mismatch { mine: first, theirs: second },
            _ => FailureKind::Aborted { by: first },
        };
        let call = <&[u8; Signature::BYTES]>::try_from(reader.0).ok().and_then(Signature::from_bytes);
        Some(Self { failure: Failure { kind, rank, comm, seq, op, culprits, elapsed_ms }, call })
    }

    /// The same, as another rank says it: whoever is at fault and still here was stopped by it.
    pub(super) fn seen_by(&self, rank: usize) -> Failure {
        let told = &self.failure;
        if told.rank == rank {
            return told.clone();
        }
        let kind = match &told.kind {
            _ if told.culprits.contains(&rank) => FailureKind::Aborted { by: told.to_string() },
            FailureKind::PeerLost { how } => FailureKind::PeerLost { how: format!("{how}, says rank {}", told.rank) },
            FailureKind::Timeout { stage } => {
                FailureKind::Timeout { stage: format!("{stage}, says rank {}", told.rank) }
            }
            FailureKind::Mismatch { mine, theirs } => {
                FailureKind::Mismatch { mine: format!("(rank {}) {mine}", told.rank), theirs: theirs.clone() }
            }
            other => FailureKind::Aborted { by: format!("rank {}: {other}", told.rank) },
        };
        Failure { kind, rank, ..told.clone() }
    }
}

/// Of longer texts the rest is cut off: a store has room for small values.
const TEXT_BYTES_MAX: usize = 4096;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.long()?).ok()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}
