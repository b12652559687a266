//! The link model: each rank has one port out and one port in.
//!
//! A message of n bytes occupies both for `n / bytes_per_s`, from the first instant at which
//! both sides have posted and both ports are free, and arrives `latency_s` later. No port is
//! reserved ahead: whichever message can start first does. Proof: `tests/exec_timing.rs`.

use std::sync::Mutex;
use std::time::Instant;

use super::faults::seconds;
use super::sync::whole;
use crate::error::{Error, Result};

/// What a link can do; the model makes transfers take real time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Rate of a rank's port, each direction, bytes/s.
    pub bytes_per_s: f64,
    /// Time from the end of a transfer to its arrival, seconds.
    pub latency_s: f64,
}

impl Link {
    /// Refuses what is no link.
    pub(crate) fn check(&self) -> Result<()> {
        if self.bytes_per_s > 0.0 && self.latency_s >= 0.0 && self.latency_s < 1e6 {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "a link of {} bytes/s and {} s: the rate is above 0, the latency 0 or more",
            self.bytes_per_s, self.latency_s
        )))
    }
}

/// A message that both sides have posted and that has not started.
pub(super) struct Flight<T> {
    pub(super) from: usize,
    pub(super) bytes: usize,
    pub(super) posted: Instant,
    pub(super) what: T,
}

/// When a message leaves its sender's port and when it is there.
pub(super) struct Times {
    pub(super) left: Instant,
    pub(super) arrived: Instant,
}

/// The ports of all ranks; without a link, messages take no time.
pub(super) struct Ports {
    link: Option<Link>,
    free: Mutex<Vec<(Instant, Instant)>>,
}

impl Ports {
    pub(super) fn new(link: Option<Link>, ranks: usize) -> Self {
        let now = Instant::now();
        Self { link, free: Mutex::new(vec![(now, now); ranks]) }
    }

    /// All ports are free from now on.
    pub(super) fn clear(&self) {
        let now = Instant::now();
        whole(self.free.lock()).fill((now, now));
    }

    /// Starts the flight to `to` that can start first, or says when to ask again.
    pub(super) fn start<T>(&self, to: usize, flights: &mut Vec<Flight<T>>) -> Result<(Flight<T>, Times), Instant> {
        let now = Instant::now();
        let Some(link) = self.link else {
            let first = flights.iter().enumerate().min_by_key(|(_, flight)| flight.posted).ok_or(now)?.0;
            if flights[first].posted > now {
                return Err(flights[first].posted);
            }
            return Ok((flights.swap_remove(first), Times { left: now, arrived: now }));
        };
        let mut free = whole(self.free.lock());
        let ranks = free.len();
        let ready = |flight: &Flight<T>| match flight.from == to {
            true => flight.posted,
            false => flight.posted.max(free[flight.from].0).max(free[to].1),
        };
        // Of equals the nearest rank before this one, so that rounds of an all-to-all are pairs.
        let first = (0..flights.len())
            .map(|i| (ready(&flights[i]), (to + ranks - flights[i].from) % ranks, i))
            .min()
            .ok_or(now)?;
        if first.0 > now {
            return Err(first.0);
        }
        let flight = flights.remove(first.2);
        if flight.from == to {
            return Ok((flight, Times { left: now, arrived: now }));
        }
        let left = first.0 + seconds(flight.bytes as f64 / link.bytes_per_s);
        free[flight.from].0 = left;
        free[to].1 = left;
        Ok((flight, Times { left, arrived: left + seconds(link.latency_s) }))
    }
}
