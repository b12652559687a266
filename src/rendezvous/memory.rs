use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::store::{Store, check, timeout};
use crate::error::Result;

/// A store for ranks that are threads of one process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl Store for MemoryStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        check(key, value)?;
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_string(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check(key, &[])?;
        Ok(self.values.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        check(key, &[])?;
        let begin = Instant::now();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = values.get(key) {
                return Ok(value.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timeout(key, begin));
            }
            values = self.changed.wait_timeout(values, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        check(key, value)?;
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let there = values.entry(key.to_string()).or_insert_with(|| value.to_vec()).clone();
        self.changed.notify_all();
        Ok(there)
    }
}
