//! The thread that lets ranks in. Strangers are looked at in turn and never waited for.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::handshake::{Answer, Nonces, PROOF_BYTES, answer, greeting, proven};
use super::host::{Shared, admit};

/// How long a stranger may take to prove the key.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// How long it may at least, where others wait at the door.
const HANDSHAKE_IF_CROWDED: Duration = Duration::from_millis(50);

/// Between two looks at the strangers.
const LOOK: Duration = Duration::from_millis(1);

/// Between two tries where the process has no descriptor left.
const RECOVER: Duration = Duration::from_millis(10);

/// A connection that has proved nothing yet.
struct Stranger {
    stream: TcpStream,
    since: Instant,
    nonce: [u8; 32],
    proof: [u8; PROOF_BYTES],
    filled: usize,
}

enum Step {
    Waits,
    Proved(Nonces),
    Wrong,
    Gone,
}

/// Runs until the host closes.
pub(super) fn keep(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut strangers: VecDeque<Stranger> = VecDeque::new();
    while !shared.closed.load(Ordering::Acquire) {
        // Sleeps in accept while nobody is inside; the host's end wakes us.
        let mut blocking = strangers.is_empty();
        if listener.set_nonblocking(!blocking).is_err() {
            return;
        }
        while make_room(&mut strangers, shared.options.strangers_max) {
            match listener.accept() {
                Ok((stream, _)) => strangers.extend(greet(stream)),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) if matches!(why.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // No descriptor left: the oldest stranger gives its own back.
                Err(_) => {
                    if !crowd_out(&mut strangers) {
                        std::thread::sleep(RECOVER);
                        break;
                    }
                }
            }
            if blocking {
                blocking = false;
                if shared.closed.load(Ordering::Acquire) || listener.set_nonblocking(true).is_err() {
                    return;
                }
            }
        }
        strangers = strangers.into_iter().filter_map(|stranger| look(stranger, shared)).collect();
        if !strangers.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
}

/// True if one more may come in.
fn make_room(strangers: &mut VecDeque<Stranger>, most: usize) -> bool {
    strangers.len() < most.max(1) || crowd_out(strangers)
}

/// Closes the oldest stranger, if it has had time enough.
fn crowd_out(strangers: &mut VecDeque<Stranger>) -> bool {
    let aged = strangers.front().is_some_and(|oldest| oldest.since.elapsed() >= HANDSHAKE_IF_CROWDED);
    if aged {
        strangers.pop_front();
    }
    aged
}

fn greet(mut stream: TcpStream) -> Option<Stranger> {
    let (bytes, nonce) = greeting().ok()?;
    stream.set_nonblocking(true).ok()?;
    stream.set_nodelay(true).ok()?;
    // An empty socket buffer takes the greeting whole.
    (stream.write(&bytes).ok()? == bytes.len()).then_some(())?;
    Some(Stranger { stream, since: Instant::now(), nonce, proof: [0; PROOF_BYTES], filled: 0 })
}

/// The stranger, if it stays one.
fn look(mut stranger: Stranger, shared: &Arc<Shared>) -> Option<Stranger> {
    let nonces = match step(&mut stranger, shared) {
        Step::Waits => return Some(stranger),
        Step::Gone => return None,
        Step::Wrong => {
            let _ = stranger.stream.write(&answer(&shared.key, None, Answer::WrongKey));
            log::warn!("a connection without the job's key was closed");
            return None;
        }
        Step::Proved(nonces) => nonces,
    };
    admit(stranger.stream, &nonces, shared);
    None
}

fn step(stranger: &mut Stranger, shared: &Shared) -> Step {
    loop {
        if stranger.since.elapsed() >= HANDSHAKE {
            return Step::Gone;
        }
        match stranger.stream.read(stranger.proof.get_mut(stranger.filled..).unwrap_or_default()) {
            Ok(0) => return Step::Gone,
            Ok(read) => stranger.filled += read,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Step::Waits,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Step::Gone,
        }
        if stranger.filled == PROOF_BYTES {
            return proven(&shared.key, stranger.nonce, &stranger.proof).map_or(Step::Wrong, Step::Proved);
        }
    }
}
