//! What can go wrong on the links between ranks, made to happen: cut, delayed, spoiled.
//!
//! A message that meets a cut is not lost; it starts when the link heals. Times are since the
//! start of a run. Proof: `tests/failure/links.rs`.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::board::Key;

/// What goes wrong on the links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Links that carry nothing for a time.
    pub cuts: Vec<Cut>,
    /// Each message starts up to this much later, seconds.
    pub jitter_s: f64,
    /// Of the jitter.
    pub seed: u64,
    /// A message that does not arrive as it was sent.
    pub spoil: Option<Spoil>,
}

/// A link that carries nothing for a time, one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Sending rank.
    pub from: usize,
    /// Receiving rank.
    pub to: usize,
    /// When it is cut.
    pub begin: Duration,
    /// When it heals, if it does.
    pub heal: Option<Duration>,
}

/// One bit of a message that flips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spoil {
    /// Sending rank.
    pub from: usize,
    /// Receiving rank.
    pub to: usize,
    /// Tag of the communication.
    pub tag: u32,
    /// Byte of its first message between the two; one beyond the end spoils nothing.
    pub byte: usize,
}

/// So far away that every deadline passes before.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Seconds that a user gave; too many to count are all.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(NEVER)
}

fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at + NEVER)
}

impl Faults {
    /// When a message that was ready at `ready` can start, in a run that began at `start`.
    pub(super) fn ready(&self, key: Key, ready: Instant, start: Instant) -> Instant {
        let mut ready = later(ready, self.jitter(key));
        // Each pass leaves one cut behind.
        for _ in 0..self.cuts.len() {
            let meets = |cut: &&Cut| {
                let heal = later(start, cut.heal.unwrap_or(NEVER));
                let on_link = (cut.from, cut.to) == (key.from as usize, key.to as usize);
                on_link && ready >= later(start, cut.begin) && ready < heal
            };
            let Some(cut) = self.cuts.iter().find(meets) else { break };
            ready = later(start, cut.heal.unwrap_or(NEVER));
        }
        ready
    }

    /// Equal for equal messages and seeds.
    fn jitter(&self, key: Key) -> Duration {
        if self.jitter_s <= 0.0 {
            return Duration::ZERO;
        }
        let words =
            [self.seed, key.epoch, u64::from(key.tag), u64::from(key.from), u64::from(key.to), u64::from(key.index)];
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        seconds(self.jitter_s * (checksum(&bytes) >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// The bytes of a message as they arrive.
    pub(super) fn arriving<'a>(&self, key: Key, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let hit = |spoil: &&Spoil| {
            let place = (spoil.from, spoil.to, spoil.tag) == (key.from as usize, key.to as usize, key.tag);
            place && key.index == 0 && spoil.byte < bytes.len()
        };
        let Some(spoil) = self.spoil.as_ref().filter(hit) else { return Cow::Borrowed(bytes) };
        let mut bytes = bytes.to_vec();
        bytes[spoil.byte] ^= 1;
        Cow::Owned(bytes)
    }
}

/// Differs for messages that differ in one word.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    // Every step can be undone, so that no difference is lost.
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().iter().fold(bytes.len() as u64, |word, byte| (word << 8) | u64::from(*byte));
    let hash = words.map(|word| word.try_into().map_or(0, u64::from_le_bytes)).fold(0x51ed_270b, step);
    let hash = step(step(hash, rest), 0);
    hash ^ (hash >> 31)
}
