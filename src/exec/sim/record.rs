//! What a simulation keeps: a few sums a rank, and every span where they are wanted.

/// One op, or one piece of a gated kernel, in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) rank: u32,
    pub(super) stream: u16,
    pub(super) op: u32,
    pub(super) piece: Option<u16>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// The same figures as [`crate::exec::overlap`] gives for a report, without its spans.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    /// Time in which at least one compute span ran.
    pub compute_ns: u64,
    /// Time in which at least one communication span ran.
    pub comm_ns: u64,
    /// Time in which a communication span ran and no compute span did.
    pub exposed_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    computing: u32,
    communicating: u32,
    since: u64,
    busy: Busy,
}

/// The record of a world.
pub(super) struct Record {
    pub(super) moments: Option<Vec<Moment>>,
    tallies: Vec<Tally>,
    pub(super) end: u64,
}

impl Record {
    pub(super) fn new(ranks: usize, spans: bool) -> Self {
        Self { moments: spans.then(Vec::new), tallies: vec![Tally::default(); ranks], end: 0 }
    }

    pub(super) fn begin(&mut self, rank: u32, computes: bool, now: u64) {
        let tally = &mut self.tallies[rank as usize];
        tally.until(now);
        *(if computes { &mut tally.computing } else { &mut tally.communicating }) += 1;
    }

    pub(super) fn end(&mut self, computes: bool, moment: Moment) {
        let tally = &mut self.tallies[moment.rank as usize];
        tally.until(moment.end);
        *(if computes { &mut tally.computing } else { &mut tally.communicating }) -= 1;
        self.mark(moment);
    }

    pub(super) fn mark(&mut self, moment: Moment) {
        self.end = self.end.max(moment.end);
        if let Some(moments) = &mut self.moments {
            moments.push(moment);
        }
    }

    pub(super) fn busy(&self) -> Vec<Busy> {
        self.tallies.iter().map(|tally| tally.busy).collect()
    }
}

impl Tally {
    fn until(&mut self, now: u64) {
        let passed = now - self.since;
        self.since = now;
        let (computes, communicates) = (self.computing > 0, self.communicating > 0);
        self.busy.compute_ns += if computes { passed } else { 0 };
        self.busy.comm_ns += if communicates { passed } else { 0 };
        self.busy.exposed_ns += if communicates && !computes { passed } else { 0 };
    }
}
