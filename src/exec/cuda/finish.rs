//! The end of a run: waited for, with a deadline, and told apart from a rank that does not come.

use std::time::{Duration, Instant};

use super::bound::{Bound, STATUS_BYTES};
use super::resolve::Call;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::exec::Report;
use crate::plan::OpId;

/// How long aborted work may take to leave the device.
const ABORT_DEADLINE: Duration = Duration::from_secs(10);

impl Bound<'_> {
    /// Waits for the end of the last run.
    ///
    /// # Errors
    /// A failure on the device, a gate that did not open, another rank that does not come (each
    /// names the op), and a run that takes longer than the deadline. Where ranks run alone, their
    /// communicators are aborted then.
    pub fn finish(&mut self) -> Result<Report> {
        let begin = Instant::now();
        if let Err(error) = self.ended(begin).and_then(|()| self.prepared.transport.is_whole()) {
            return Err(self.given_up(error));
        }
        self.prepared.transport.ended();
        self.closed_gate()?;
        self.report()
    }

    fn ended(&self, begin: Instant) -> Result<()> {
        let alone = self.prepared.transport.agreement().is_some();
        let deadline = self.prepared.options.deadline;
        // Of all ranks in one place only a wait inside a kernel can be late. It ends by itself at
        // the deadline: leave it the time to say so.
        let longest = if alone { deadline } else { 2 * deadline };
        let mut pause = Duration::from_micros(5);
        while !self.end.is_done()? {
            self.prepared.transport.health()?;
            if begin.elapsed() > longest {
                return Err(if alone { self.late(begin) } else { timeout("run".into(), 0, longest) });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Nobody is known to be lost, but the run does not end.
    fn late(&self, begin: Instant) -> Error {
        let rank = self.prepared.first_rank();
        let Some((stream, _)) = self.told.first_open() else {
            return timeout("run".into(), rank, self.prepared.options.deadline);
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
        let error = match (error, self.told.first_open()) {
            (Error::Between(failure), Some((_, op))) => self.at(*failure, op),
            (error, _) => error,
        };
        if prepared.transport.abort(&error.to_string()).is_err() {
            return self.wedged(error);
        }
        let aborted = Instant::now();
        while matches!(self.end.is_done(), Ok(false)) {
            if aborted.elapsed() > ABORT_DEADLINE {
                return self.wedged(error);
            }
            std::thread::sleep(Duration::from_millis(1));
            // What was enqueued behind may wait anew.
            if prepared.transport.is_peer() && prepared.transport.abort("").is_err() {
                return self.wedged(error);
            }
        }
        error
    }

    fn at(&self, failure: Failure, op: OpId) -> Error {
        let rank = self.prepared.rank(self.prepared.first_rank());
        let groups = self.calls.iter().filter_map(|resolved| match resolved.call {
            Call::Group { communicator, .. } => Some((resolved.op, communicator)),
            _ => None,
        });
        let mut groups = groups.skip_while(|(of, _)| *of != Some(op));
        let unnamed = if self.prepared.transport.is_peer() { "peers".into() } else { failure.comm.clone() };
        let (comm, seq) = groups.next().map_or((unnamed, None), |(_, communicator)| {
            let later = groups.filter(|(_, other)| *other == communicator).count() as u64;
            let (name, last) = self.prepared.transport.last_issued(communicator);
            (name, last.and_then(|last| last.checked_sub(later)))
        });
        let (rank, op) = (rank.plan.rank as usize, rank.plan.label(op).to_string());
        Error::Between(Box::new(Failure { rank, comm, seq, op, ..failure }))
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
                    after_ms: self.prepared.options.deadline.as_millis() as u64,
                };
                self.status.as_mut_slice().fill(0);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn timeout(op: String, rank: usize, after: Duration) -> Error {
    Error::Timeout { rank, op, waited_for: "the device to finish".into(), after_ms: after.as_millis() as u64 }
}
