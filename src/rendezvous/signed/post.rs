//! Signed values in a store that others can write.
//!
//! A value stands under the first of a few numbered keys, its slots, that held no value of this
//! job's key. What others put there, under another key or from another job, is passed over, so it
//! can neither be taken for the job's own nor keep the job's own from its place. Of several
//! claims under one name the first counts, and all who ask get that one.

use std::time::{Duration, Instant};

use super::key::{Key, Nonce};
use super::sealed::{open, seal};
use crate::error::{FailureKind, Result};
use crate::rendezvous::store::{Store, failure, is_timeout};

/// What these values are signed for.
const PURPOSE: &[u8] = b"post";

/// Slots of a name: so many strangers may come before a rank gives up.
const SLOTS: u32 = 64;

/// A store as one job sees it.
#[derive(Clone, Copy)]
pub(super) struct Board<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) key: &'a Key,
    pub(super) nonce: Nonce,
}

/// The next slot of a name to look at.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot(u32);

impl Slot {
    /// True if a stranger's value was passed over.
    pub(super) fn skipped(self) -> bool {
        self.0 > 0
    }
}

impl Board<'_> {
    /// Puts a value under a name if the job has none there; the job's value that is then there.
    pub(super) fn claim(&self, name: &str, value: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.seal(name, value);
        for slot in 0..SLOTS {
            let there = self.store.claim(&self.slot(name, slot), &sealed)?;
            if let Some(value) = self.open(name, &there) {
                return Ok(value.to_vec());
            }
        }
        Err(self.full(name))
    }

    /// The job's value under a name, if it is there.
    pub(super) fn read(&self, name: &str, next: &mut Slot) -> Result<Option<Vec<u8>>> {
        while next.0 < SLOTS {
            let Some(there) = self.store.read(&self.slot(name, next.0))? else { return Ok(None) };
            if let Some(value) = self.open(name, &there) {
                return Ok(Some(value.to_vec()));
            }
            next.0 += 1;
        }
        Err(self.full(name))
    }

    /// Returns when something may have come under a name, at the latest after `slice`.
    pub(super) fn rest(&self, name: &str, next: Slot, slice: Duration) -> Result<()> {
        match self.store.wait(&self.slot(name, next.0), Instant::now() + slice) {
            Err(error) if !is_timeout(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn slot(&self, name: &str, slot: u32) -> String {
        format!("{}/{name}/{slot}", self.nonce)
    }

    fn seal(&self, name: &str, value: &[u8]) -> Vec<u8> {
        seal(self.key, self.nonce, PURPOSE, name, value)
    }

    fn open<'a>(&self, name: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
        open(self.key, self.nonce, PURPOSE, name, sealed)
    }

    fn full(&self, name: &str) -> crate::error::Error {
        log::warn!("{SLOTS} values under \"{name}\" do not carry the job's key");
        failure(FailureKind::AuthRejected, Vec::new(), Instant::now())
    }
}
