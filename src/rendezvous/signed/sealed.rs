//! Values that carry the job's key, and a store of them.

use std::sync::Arc;
use std::time::Instant;

use super::key::{Key, MAC_BYTES, Nonce};
use crate::error::{Error, FailureKind, Result};
use crate::rendezvous::store::{Store, VALUE_BYTES_MAX, check, failure, unusable};

/// The value behind a signature that holds it to its job, purpose and name.
pub(super) fn seal(key: &Key, nonce: Nonce, purpose: &[u8], name: &str, value: &[u8]) -> Vec<u8> {
    let mut sealed = key.sign(&[purpose, &nonce.0, name.as_bytes(), value]).to_vec();
    sealed.extend(value);
    sealed
}

/// The value, if its signature is right.
pub(super) fn open<'a>(key: &Key, nonce: Nonce, purpose: &[u8], name: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (mac, value) = sealed.split_first_chunk::<MAC_BYTES>()?;
    key.verifies(&[purpose, &nonce.0, name.as_bytes(), value], mac).then_some(value)
}

/// A store whose values are signed with the job's key, for what ranks share after they have met.
///
/// [`super::join`] and [`super::exchange_id`] sign what they say by themselves. Watchdogs, the
/// comparison of plans and the connections of peers believe what stands in their store: right where
/// nobody else can write it (memory, a folder of one's own, a TCP store, whose connections prove the
/// key), and not where others can, as in torchrun's.
///
/// A value that was changed, moved to another key or taken from another job is an error
/// ([`FailureKind::AuthRejected`]). That an older value was put back, or one deleted, is not noticed.
/// Values are at most [`VALUE_BYTES_MAX`] - 32 bytes long.
pub struct SignedStore {
    store: Arc<dyn Store>,
    key: Key,
    nonce: Nonce,
}

impl SignedStore {
    /// Signs what goes into `store`, for the job `nonce`.
    pub fn new(store: Arc<dyn Store>, key: &Key, nonce: Nonce) -> Self {
        Self { store, key: key.clone(), nonce }
    }

    fn sealed(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        check(key, value)?;
        if value.len() > VALUE_BYTES_MAX - MAC_BYTES {
            let most = VALUE_BYTES_MAX - MAC_BYTES;
            return Err(unusable(format!("a value of {} bytes under \"{key}\": at most {most} signed", value.len())));
        }
        Ok(seal(&self.key, self.nonce, b"value", key, value))
    }

    fn opened(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let value = open(&self.key, self.nonce, b"value", key, sealed);
        value.map(<[u8]>::to_vec).ok_or_else(|| rejected(key))
    }
}

fn rejected(key: &str) -> Error {
    log::warn!("the value under \"{key}\" does not carry the job's key");
    failure(FailureKind::AuthRejected, Vec::new(), Instant::now())
}

impl Store for SignedStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.store.set(key, &self.sealed(key, value)?)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(key)?.map(|sealed| self.opened(key, &sealed)).transpose()
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.opened(key, &self.store.wait(key, deadline)?)
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.opened(key, &self.store.claim(key, &self.sealed(key, value)?)?)
    }
}
