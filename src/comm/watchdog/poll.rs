//! The thread that looks at the communicators and decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Instant;

use super::courier::RANKS_A_ROUND;
use super::dumps::write_dumps;
use super::message::Cause;
use super::peers::{Peer, blame};
use super::watch::Comm;
use super::{Shared, State};
use crate::error::{Error, Failure, FailureKind};

pub(super) fn run(shared: &Shared) {
    let _end = End(shared);
    let mut aborts = Vec::new();
    // A communicator's own error, until it is known whether a rank was lost.
    let mut complaint: Option<(Cause, Instant)> = None;
    let mut last = Instant::now();
    // Until then nobody is judged: this process was stopped or starved, what it knows of others is
    // old, and they may have given it up.
    let mut quiet = last;
    loop {
        let begin = Instant::now();
        // Not twice in a row, or one that is always starved would never judge.
        let was_quiet = last < quiet;
        if !was_quiet && begin - last > shared.options.silence.saturating_add(shared.options.period) {
            quiet = begin + 4 * shared.options.period;
        }
        last = begin;
        if shared.state().stop.is_some() {
            // The rank has left; nobody waits for what it had in flight.
            return;
        }
        if shared.poison.first().is_none() {
            if begin >= quiet {
                look(shared, &mut complaint);
            }
            if let Some(failure) = verdict(shared) {
                aborts = fail(shared, &failure);
            }
        }
        aborts.retain(|abort: &Aborting| !abort.is_done(shared));
        shared.rest(begin + shared.options.period, |state| shared.poison.first().is_none() && state.first.is_some());
    }
}

struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Looks for a failure of this rank's own, and has it claimed for all.
fn look(shared: &Shared, complaint: &mut Option<(Cause, Instant)>) {
    let mut state = shared.state();
    state.comms.retain(|comm| !comm.is_closed.load(Ordering::Acquire));
    if state.suspected.is_some() || state.first.is_some() {
        return;
    }
    let (comms, peers) = (state.comms.clone(), state.peers.clone());
    drop(state);
    comms.iter().for_each(|comm| comm.look());
    let lost = lost(shared, &shared.state());
    let mut cause = lost.map(|failure| Cause { failure, call: None });
    for comm in &comms {
        let said = comm.probe().error.as_ref().map_or(Ok(()), |error| error());
        if let Err(error) = said
            && complaint.is_none()
        {
            *complaint = Some((complained(shared, comm, error), Instant::now()));
        }
        cause = cause.or_else(|| late(shared, comm, &peers));
    }
    // A rank that is lost explains an error of the transport; it is seen within two periods.
    let ripe = complaint.as_ref().filter(|(_, since)| since.elapsed() > 2 * shared.options.period);
    if let Some(cause) = cause.or_else(|| ripe.map(|(cause, _)| cause.clone())) {
        shared.suspect(cause);
    }
}

/// The ranks that have gone.
fn lost(shared: &Shared, state: &State) -> Option<Failure> {
    let gone: Vec<usize> = (0..state.peers.len()).filter(|&rank| state.peers[rank].gone.is_some()).collect();
    if let Some(how) = gone.first().and_then(|&rank| state.peers[rank].gone.clone()) {
        let mut failure = shared.failure(FailureKind::PeerLost { how }, "watchdog", gone);
        locate(&mut failure, &state.comms);
        return Some(failure);
    }
    let (since, said) = state.unreachable.as_ref()?;
    (since.elapsed() > shared.options.lost_after).then(|| {
        shared.failure(
            FailureKind::PeerLost { how: format!("the store cannot be reached: {said}") },
            "watchdog",
            Vec::new(),
        )
    })
}

/// Says at which op in flight a failure was noticed, if there is one: that which was called first.
pub(super) fn locate(failure: &mut Failure, comms: &[Arc<Comm>]) {
    let open = comms.iter().filter_map(|comm| Some((comm.first_place()?, comm)));
    if let Some((_, comm)) = open.min_by_key(|(place, _)| *place) {
        comm.locate(failure);
    }
}

fn complained(shared: &Shared, comm: &Comm, error: Error) -> Cause {
    let mut failure = match error {
        Error::Between(failure) => *failure,
        other => shared.failure(FailureKind::Aborted { by: other.to_string() }, &comm.name, vec![shared.rank]),
    };
    let call = comm.locate(&mut failure);
    Cause { failure, call }
}

/// The oldest op in flight, if its time is up.
fn late(shared: &Shared, comm: &Comm, peers: &[Peer]) -> Option<Cause> {
    let since = {
        let ops = comm.ops();
        let open = ops.open.front()?;
        if ops.since.elapsed() <= open.deadline {
            return None;
        }
        ops.since
    };
    let options = &shared.options;
    // A look at all ranks takes several rounds where they are many.
    let turn = options.period.saturating_mul((1 + peers.len() / RANKS_A_ROUND) as u32);
    let fresh = Instant::now().checked_sub(options.lost_after.saturating_add(turn)).map_or(since, |at| at.max(since));
    let (culprits, stage) = blame(peers, &comm.members, shared.rank, comm.position(), options.silence, fresh);
    let mut failure = shared.failure(FailureKind::Timeout { stage }, &comm.name, culprits);
    let call = comm.locate(&mut failure);
    Some(Cause { failure, call })
}

/// The failure that all ranks take for the first; this rank's own if the store does not answer.
fn verdict(shared: &Shared) -> Option<Failure> {
    let state = shared.state();
    if let Some(first) = &state.first {
        let mut failure = first.seen_by(shared.rank);
        if first.failure.rank != shared.rank {
            let comms = state.comms.clone();
            drop(state);
            // What this rank was at, before anything is aborted.
            comms.iter().for_each(|comm| comm.look());
            locate(&mut failure, &comms);
        }
        return Some(failure);
    }
    let (cause, since) = state.suspected.as_ref()?;
    (since.elapsed() > 4 * shared.options.period).then(|| cause.failure.clone())
}

/// Writes the flight records, poisons the family, and aborts what is in flight.
fn fail(shared: &Shared, failure: &Failure) -> Vec<Aborting> {
    let comms = shared.state().comms.clone();
    if let Some(folder) = &shared.options.dumps {
        write_dumps(folder, shared.rank, comms.iter().map(|comm| comm.flight.dump(Some(failure.to_string()))));
    }
    log::error!("{failure}");
    shared.poison.set(failure);
    let probes = comms.iter().filter_map(|comm| Some((comm.name.clone(), comm.probe().abort.take()?)));
    let mut aborts = Vec::new();
    for (comm, abort) in probes {
        let done = Arc::new(AtomicBool::new(false));
        let (flag, failure) = (done.clone(), failure.clone());
        let thread = Builder::new().name(format!("abort {comm}")).spawn(move || {
            abort(&failure);
            flag.store(true, Ordering::Release);
        });
        match thread {
            Ok(_) => aborts.push(Aborting { comm, done, begin: Instant::now() }),
            Err(error) => shared.poison.set_stuck(format!("the abort of {comm}, without a thread ({error}),")),
        }
    }
    aborts
}

/// An abort under way.
struct Aborting {
    comm: String,
    done: Arc<AtomicBool>,
    begin: Instant,
}

impl Aborting {
    fn is_done(&self, shared: &Shared) -> bool {
        if self.done.load(Ordering::Acquire) {
            return true;
        }
        let is_late = self.begin.elapsed() > shared.options.abort_within;
        if is_late {
            shared.poison.set_stuck(format!("the abort of {}", self.comm));
        }
        is_late
    }
}
