//! The host executor's link model under the virtual clock.
//!
//! A rank has one port out and one in. A message holds both for `bytes / rate`, from the first
//! instant at which both sides have posted and both ports are free, and arrives `latency` later;
//! no port is reserved ahead. Of the messages to a rank that can start at once the one from the
//! nearest rank before it goes first. An op ends when its last message has arrived and its own
//! have left; where messages are summed, the receiver lets go of all of them once the last has
//! started. Threads sleep and wake late, which costs an all-to-all its order: its rounds are no
//! pairs any more, and ports idle. Same figures as the executor: `tests/sim_host.rs`.

use std::collections::HashMap;

use super::machine::Host;
use super::program::{Exchange, Seat};
use super::queue::{Lane, Queue, What, ns};

/// `index`-th message from `from` to `to` under a tag.
type Key = (u32, u32, u32, u32);

pub(super) struct Ports {
    bytes_per_s: f64,
    latency_ns: u64,
    wake_ns: u64,
    /// When each rank's port out and port in are free.
    free: Vec<(u64, u64)>,
    calls: Vec<Call>,
    unused: Vec<u32>,
    /// Messages that wait for their receiver: bytes, sending call.
    posts: HashMap<Key, (u64, u32)>,
    /// Receivers that wait for their message.
    wants: HashMap<Key, u32>,
}

/// A communication of one rank, from its start to its end.
struct Call {
    lane: Lane,
    sums: bool,
    flights: Vec<Flight>,
    /// Messages to come that have not started, and own ones whose receiver holds them.
    unstarted: u32,
    held: u32,
    end: u64,
    /// Where messages are summed: senders that learn at the end when their message left.
    taken: Vec<(u32, u64)>,
    /// When it is woken next, as far as it has asked.
    alarm: Option<u64>,
}

struct Flight {
    from: u32,
    bytes: u64,
    posted: u64,
    sender: u32,
}

impl Ports {
    pub(super) fn new(host: &Host, ranks: usize) -> Self {
        Self {
            bytes_per_s: host.machine.link_bytes_per_s,
            latency_ns: ns(host.machine.link_latency_s),
            wake_ns: ns(host.wake_s),
            free: vec![(0, 0); ranks],
            calls: Vec::new(),
            unused: Vec::new(),
            posts: HashMap::new(),
            wants: HashMap::new(),
        }
    }

    /// A rank enters a communication.
    pub(super) fn enter(&mut self, lane: Lane, seat: Seat, comm: &Exchange, now: u64, queue: &mut Queue) {
        let me = lane.rank;
        let sums = comm.kind.reduces();
        let fresh =
            Call { lane, sums, flights: Vec::new(), unstarted: 0, held: 0, end: now, taken: Vec::new(), alarm: None };
        let call = match self.unused.pop() {
            Some(call) => {
                self.calls[call as usize] = fresh;
                call
            }
            None => {
                self.calls.push(fresh);
                self.calls.len() as u32 - 1
            }
        };
        let mut counts: HashMap<(u32, u32), u32> = HashMap::new();
        let mut next = |from: u32, to: u32| {
            let count = counts.entry((from, to)).or_insert(0);
            *count += 1;
            (comm.tag, from, to, *count - 1)
        };
        let mut receivers = Vec::new();
        let messages = seat.program.messages(comm);
        for message in messages.iter().filter(|message| message.sends && seat.rank(message.peer) != me) {
            let key = next(me, seat.rank(message.peer));
            self.calls[call as usize].held += 1;
            match self.wants.remove(&key) {
                Some(receiver) => {
                    self.fly(receiver, Flight { from: me, bytes: message.bytes, posted: now, sender: call });
                    receivers.push(receiver);
                }
                None => {
                    self.posts.insert(key, (message.bytes, call));
                }
            }
        }
        let others = seat.group(comm).filter(|&rank| rank != me);
        for message in messages.iter().filter(|message| !message.sends) {
            let senders: Vec<u32> = if sums { others.clone().collect() } else { vec![seat.rank(message.peer)] };
            for from in senders {
                let key = next(from, me);
                self.calls[call as usize].unstarted += 1;
                match self.posts.remove(&key) {
                    Some((bytes, sender)) => self.fly(call, Flight { from, bytes, posted: now, sender }),
                    None => {
                        self.wants.insert(key, call);
                    }
                }
            }
        }
        receivers.push(call);
        for receiver in receivers {
            self.wake(receiver, now, queue);
        }
    }

    fn fly(&mut self, receiver: u32, flight: Flight) {
        self.calls[receiver as usize].flights.push(flight);
    }

    /// Starts what can start now, in order, and asks to be woken for the next.
    pub(super) fn wake(&mut self, call: u32, now: u64, queue: &mut Queue) {
        loop {
            let to = self.calls[call as usize].lane.rank;
            let ranks = self.free.len() as u32;
            let ready =
                |flight: &Flight| flight.posted.max(self.free[flight.from as usize].0).max(self.free[to as usize].1);
            let flights = &self.calls[call as usize].flights;
            let first = flights.iter().enumerate().map(|(i, f)| (ready(f), (to + ranks - f.from) % ranks, i)).min();
            let Some((at, _, index)) = first else { break };
            if at > now {
                let lane = self.calls[call as usize].lane;
                let alarm = self.woken(lane, at);
                // Who is woken twice would ask twice for the next time.
                if self.calls[call as usize].alarm.replace(alarm) != Some(alarm) {
                    queue.push(alarm, lane, What::Wake { call });
                }
                return;
            }
            let flight = self.calls[call as usize].flights.remove(index);
            let left = at + ns(flight.bytes as f64 / self.bytes_per_s);
            self.free[flight.from as usize].0 = left;
            self.free[to as usize].1 = left;
            let receiver = &mut self.calls[call as usize];
            receiver.end = receiver.end.max(left + self.latency_ns);
            receiver.unstarted -= 1;
            if receiver.sums {
                receiver.taken.push((flight.sender, left));
            } else {
                self.release(flight.sender, left, now, queue);
            }
        }
        let receiver = &mut self.calls[call as usize];
        if receiver.unstarted == 0 {
            for (sender, left) in std::mem::take(&mut receiver.taken) {
                self.release(sender, left, now, queue);
            }
            self.finish(call, now, queue);
        }
    }

    fn release(&mut self, sender: u32, left: u64, now: u64, queue: &mut Queue) {
        let call = &mut self.calls[sender as usize];
        call.end = call.end.max(left);
        call.held -= 1;
        self.finish(sender, now, queue);
    }

    fn finish(&mut self, index: u32, now: u64, queue: &mut Queue) {
        let call = &mut self.calls[index as usize];
        if call.unstarted == 0 && call.held == 0 && call.end != u64::MAX {
            let (lane, end) = (call.lane, call.end);
            // Ended once; the slot may be used again.
            call.end = u64::MAX;
            self.unused.push(index);
            let end = if end > now { self.woken(lane, end) } else { now };
            queue.push(end, lane, What::CommEnd);
        }
    }

    /// When a thread runs that sleeps until `at`: late, by a part that looks random and is not.
    fn woken(&self, lane: Lane, at: u64) -> u64 {
        let mixed =
            (at ^ u64::from(lane.rank) << 40 ^ u64::from(lane.stream) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        at + self.wake_ns / 2 + (mixed >> 32) % (self.wake_ns / 2).max(1)
    }
}
