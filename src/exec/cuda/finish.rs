//! The end of a run: waited for, with a deadline, and told apart from a rank that does not come.

use std::time::{Duration, Instant};

use super::bound::{Bound, STATUS_BYTES, State};
use super::open_ops::OpenOps;
use super::transport::OpenOp;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::exec::Report;

/// How long aborted work may take to leave the device.
const ABORT_DEADLINE: Duration = Duration::from_secs(10);

/// A driver says of nothing which kernel it was.
pub(super) const HOW_TO_BE_TOLD: &str = "run the same under compute-sanitizer to be told the kernel";

/// Between two questions to the device.
const SHORTEST_PAUSE: Duration = Duration::from_micros(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

impl Bound<'_> {
    /// Waits for the end of the last run.
    ///
    /// # Errors
    /// No run before, or one that failed: what it said. A failure on the device, a gate that did not
    /// open, another rank that does not come, a run that takes longer than the deadline: each names
    /// the op as far as it is known. Where ranks run alone, their communicators are aborted then.
    pub fn finish(&mut self) -> Result<Report> {
        match &self.state {
            State::Idle => return Err(Error::Bind("nothing was run: call run first".into())),
            State::Failed(error) => return Err(error.clone()),
            State::UnderWay | State::Waited => {}
        }
        let _current = self.prepared.context.enter()?;
        let begin = Instant::now();
        if let Err(error) = self.ended(begin).and_then(|()| self.prepared.transport.is_whole()) {
            // What the driver says of one question is no end of the wait.
            if !matches!(error, Error::Cuda { .. }) {
                self.state = State::Waited;
            }
            return Err(self.given_up(error));
        }
        self.state = State::Waited;
        self.prepared.transport.let_go(&self.progress);
        self.prepared.forget(&self.end);
        self.closed_gate()?;
        self.report()
    }

    fn ended(&self, begin: Instant) -> Result<()> {
        let longest = self.longest();
        let mut open = OpenOps::new(self);
        let mut pause = SHORTEST_PAUSE;
        while !self.end.is_done().map_err(|error| self.died(error, &open))? {
            self.prepared.transport.health()?;
            if begin.elapsed() > longest {
                return Err(if self.is_alone() { self.late(begin) } else { self.late_here(&mut open) });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if pause == LONGEST_PAUSE {
                open.look();
            }
        }
        Ok(())
    }

    /// Whether nothing of a run is under way any more, after a run's time at the latest.
    pub(crate) fn is_at_rest(&self) -> bool {
        let begin = Instant::now();
        // Who has waited in vain does not wait again.
        let longest = if matches!(self.state, State::Waited) { Duration::ZERO } else { self.longest() };
        loop {
            match self.end.is_done() {
                Ok(false) if begin.elapsed() < longest => std::thread::sleep(LONGEST_PAUSE),
                // After a failure of the device nothing runs.
                done => return done != Ok(false),
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.prepared.transport.agreement().is_some()
    }

    /// Of all ranks in one place only a wait inside a kernel can be late. It ends by itself at the
    /// deadline: that leaves it the time to say so.
    fn longest(&self) -> Duration {
        let deadline = self.prepared.options.deadline;
        if self.is_alone() { deadline } else { deadline.saturating_mul(2) }
    }

    /// The device failed: of which op, its driver no longer says.
    fn died(&self, error: Error, open: &OpenOps<'_, '_>) -> Error {
        let Error::Cuda { call, code, why } = error else { return error };
        let known = match self.progress.first_open() {
            Some((_, first)) => format!("the first communication that has not ended is \"{}\"", first.label),
            None => match open.text() {
                Some(list) => format!("when last asked these had not ended: {list}"),
                None => "which op it was is not known".into(),
            },
        };
        let why = format!("{why}; {known}; {HOW_TO_BE_TOLD}");
        Error::Cuda { call, code, why }
    }

    /// All ranks are here, and the run does not end.
    fn late_here(&self, open: &mut OpenOps<'_, '_>) -> Error {
        open.look();
        let longest = self.longest();
        match (open.first(), open.text()) {
            (Some((rank, op)), Some(list)) => {
                let label = self.prepared.rank(rank).plan.label(op).to_string();
                timeout(label, rank, &format!("the device to finish; not known to have ended: {list}"), longest)
            }
            _ if self.prepared.options.graph => {
                let what = "the device to finish; a graph does not say of which op: run without to be told";
                timeout("run".into(), 0, what, longest)
            }
            _ => timeout("run".into(), 0, "the device to finish", longest),
        }
    }

    /// Nobody is known to be lost, but the run does not end.
    fn late(&self, begin: Instant) -> Error {
        let rank = self.prepared.first_rank();
        let Some((stream, _)) = self.progress.first_open() else {
            return timeout("run".into(), rank, "the device to finish", self.prepared.options.deadline);
        };
        let name = self.prepared.rank(rank).plan.streams.get(self.prepared.program.streams[stream].1);
        Error::Between(Box::new(Failure {
            kind: FailureKind::Timeout {
                stage: format!("the op on stream \"{}\" to end", name.map_or("", String::as_str)),
            },
            rank,
            comm: String::new(),
            seq: None,
            op: String::new(),
            culprits: Vec::new(),
            elapsed_ms: begin.elapsed().as_millis() as u64,
        }))
    }

    /// The error with the op that did not end. Nothing of this run will end by itself any more, here
    /// or on the other ranks: ends it.
    fn given_up(&mut self, error: Error) -> Error {
        let prepared = self.prepared;
        if prepared.transport.agreement().is_none() {
            return error;
        }
        let error = match error {
            Error::Between(failure) => Error::Between(Box::new(self.at(*failure))),
            error => error,
        };
        if prepared.transport.abort(&error.to_string()).is_err() {
            return self.wedged(error);
        }
        let aborted = Instant::now();
        while matches!(self.end.is_done(), Ok(false)) {
            if aborted.elapsed() > ABORT_DEADLINE {
                return self.wedged(error);
            }
            std::thread::sleep(LONGEST_PAUSE);
            // What was enqueued behind may wait anew.
            if prepared.transport.is_peer() && prepared.transport.abort("").is_err() {
                return self.wedged(error);
            }
        }
        error
    }

    /// The failure with the op at which this rank stands.
    fn at(&self, failure: Failure) -> Failure {
        let rank = self.prepared.first_rank();
        match self.prepared.transport.first_open(&self.progress) {
            Some(OpenOp { op, comm, seq }) => Failure { rank, comm, seq, op, ..failure },
            None => Failure { rank, ..failure },
        }
    }

    /// The device does not let go of the run.
    pub(super) fn wedged(&mut self, cause: Error) -> Error {
        self.leave_behind();
        let Error::Between(failure) = cause else { return cause };
        let what = format!("the work of a run that was aborted ({})", failure.kind);
        Error::Between(Box::new(Failure { kind: FailureKind::Unrecoverable { what }, ..*failure }))
    }

    /// The first gate that a kernel waited for in vain.
    fn closed_gate(&mut self) -> Result<()> {
        for (rank, first) in self.prepared.ranks.iter().zip(&self.first_status) {
            for op in rank.plan.op_ids() {
                let at = first + STATUS_BYTES * op.0 as usize;
                let words: &[u8] = &self.status.as_slice()[at..at + STATUS_BYTES];
                let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|b| words[4 * i + b]));
                if word(0) == 0 {
                    continue;
                }
                let error = Error::Timeout {
                    rank: rank.plan.rank as usize,
                    op: rank.plan.label(op).to_string(),
                    waited_for: format!("chunk {} (flag at {}, {} wanted)", word(1), word(3), word(2)),
                    after_ms: milliseconds(self.prepared.options.deadline),
                };
                self.status.as_mut_slice().fill(0);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn timeout(op: String, rank: usize, waited_for: &str, after: Duration) -> Error {
    Error::Timeout { rank, op, waited_for: waited_for.into(), after_ms: milliseconds(after) }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// For kernels, centuries at most.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
