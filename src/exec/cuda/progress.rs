//! How far the communications of runs have come, where a rank may wait for others: each stream counts
//! those that have ended in a word that the host can read at any time.
//!
//! Counts go on from run to run, so that a run which is still behind another is not taken for ended.
//! A graph writes what was captured: there they begin anew with each run, and between two of them the
//! word may still be that of the run before. Test: `tests/cuda_watched.rs`.

use std::cmp::Reverse;
#[cfg(feature = "nccl")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::resolve::{Call, Resolved};
use crate::cuda::PinnedMemory;
use crate::plan::OpId;

/// Counters of what is bound; empty where all ranks are here.
pub(super) struct Progress {
    words: PinnedMemory,
    /// Communications of a run by stream, in order; a stream without has no word.
    communications: Vec<Vec<Communication>>,
    /// The groups of calls that a run makes, by communicator: stream, and number of communications of
    /// the run that have ended there with it.
    groups: Vec<Vec<(usize, u32)>>,
    /// Runs that were begun.
    runs: AtomicU32,
    is_graph: bool,
    /// Number of the first group, by communicator, that a graph issued when it was captured.
    #[cfg(feature = "nccl")]
    captured: OnceLock<Vec<u64>>,
}

pub(super) struct Communication {
    op: OpId,
    pub(super) label: String,
    /// Communicator of its first group of calls, and how many a run has made there before.
    pub(super) group: Option<(usize, u64)>,
}

impl Communication {
    pub(super) fn new(op: OpId, label: &str) -> Self {
        Self { op, label: label.into(), group: None }
    }
}

impl Progress {
    pub(super) fn new(
        words: PinnedMemory,
        communications: Vec<Vec<Communication>>,
        calls: &[Resolved],
        is_graph: bool,
    ) -> Self {
        let mut this = Self {
            words,
            communications,
            groups: Vec::new(),
            runs: AtomicU32::new(0),
            is_graph,
            #[cfg(feature = "nccl")]
            captured: OnceLock::new(),
        };
        for call in calls {
            let (Call::Group { communicator, .. }, Some(op)) = (&call.call, call.op) else { continue };
            let Some(list) = this.communications.get_mut(call.stream) else { continue };
            let Some(place) = list.iter().position(|other| other.op == op) else { continue };
            this.groups.resize_with(this.groups.len().max(communicator + 1), Vec::new);
            let groups = &mut this.groups[*communicator];
            list[place].group.get_or_insert((*communicator, groups.len() as u64));
            groups.push((call.stream, place as u32 + 1));
        }
        this
    }

    /// Another run begins: its number, from 0. Called before any of its work is enqueued.
    pub(super) fn begin(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::AcqRel)
    }

    /// What a stream writes behind the communication of that place, from 1, in the run begun last.
    pub(super) fn count(&self, stream: usize, place: u32) -> u32 {
        self.before(stream, self.runs.load(Ordering::Acquire).wrapping_sub(1)).wrapping_add(place)
    }

    /// Addresses of the words that are zero when a run starts.
    pub(super) fn cleared(&self) -> impl Iterator<Item = u64> + '_ {
        let used = self.communications.iter().enumerate().filter(|(_, list)| self.is_graph && !list.is_empty());
        used.map(|(stream, _)| self.words.address() + 4 * stream as u64)
    }

    /// The first communication, in the order of runs and of the plan, that has not ended, with its
    /// stream; `None` if all have.
    pub(super) fn first_open(&self) -> Option<(usize, &Communication)> {
        let runs = self.runs.load(Ordering::Acquire);
        let open = self.communications.iter().enumerate().filter_map(|(stream, list)| {
            let length = list.len() as u32;
            let all = if self.is_graph { length } else { self.before(stream, runs) };
            let last = all.wrapping_sub(self.words.word(stream)).checked_sub(1)?;
            let (behind, place) = (last.checked_div(length)?, length - 1 - last % length);
            Some((Reverse(behind), stream, list.get(place as usize)?))
        });
        open.min_by_key(|(behind, _, first)| (*behind, first.op)).map(|(_, stream, first)| (stream, first))
    }

    /// A stream's count when a run starts.
    fn before(&self, stream: usize, run: u32) -> u32 {
        let length = self.communications.get(stream).map_or(0, Vec::len) as u32;
        if self.is_graph { 0 } else { run.wrapping_mul(length) }
    }
}

/// What is asked of single runs.
#[cfg(feature = "nccl")]
impl Progress {
    /// Whether counts begin anew with each run.
    pub(super) fn is_graph(&self) -> bool {
        self.is_graph
    }

    /// Number of the first group that a run issues, by communicator, if so many were issued before. A
    /// graph issues its groups once.
    pub(super) fn first_groups(&self, issued: Vec<u64>) -> Vec<u64> {
        if self.is_graph { self.captured.get_or_init(|| issued).clone() } else { issued }
    }

    /// The first communication of a run, in the order of the plan, that has not ended.
    pub(super) fn open(&self, run: u32) -> Option<&Communication> {
        let streams = self.communications.iter().enumerate();
        streams.filter_map(|(stream, list)| list.get(self.passed(stream, run) as usize)).min_by_key(|first| first.op)
    }

    /// Number of groups of a communicator that have ended, of those of one run.
    pub(super) fn groups_ended(&self, communicator: usize, run: u32) -> u64 {
        let groups = self.groups.get(communicator).map_or(&[][..], Vec::as_slice);
        groups.iter().take_while(|(stream, place)| self.passed(*stream, run) >= *place).count() as u64
    }

    /// Whether all communications of a run have ended.
    pub(super) fn is_over(&self, run: u32) -> bool {
        let mut streams = self.communications.iter().enumerate();
        streams.all(|(stream, list)| self.passed(stream, run) >= list.len() as u32)
    }

    /// Number of communications of a run that have ended on a stream; that of a later run may be in
    /// the word by now.
    fn passed(&self, stream: usize, run: u32) -> u32 {
        let ahead = self.words.word(stream).wrapping_sub(self.before(stream, run));
        // Half of all counts lie ahead, the other half behind.
        if ahead > u32::MAX / 2 { 0 } else { ahead }
    }
}
