//! Values longer than a store takes, in numbered parts: the first byte of each says whether another
//! one follows. Written once under a key.

use std::time::Instant;

use super::store::{Store, VALUE_BYTES_MAX};
use crate::error::Result;

/// Of a value in a part: leaves room for what a store may add to it.
const PART_BYTES: usize = VALUE_BYTES_MAX - 64;

fn part(key: &str, number: usize) -> String {
    format!("{key}/{number}")
}

/// Puts a value of any length. Its first part comes last: who sees that sees all.
pub(crate) fn set_long(store: &dyn Store, key: &str, bytes: &[u8]) -> Result<()> {
    let parts: Vec<&[u8]> = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(PART_BYTES).collect() };
    for (number, bytes) in parts.iter().enumerate().rev() {
        let mut value = vec![u8::from(number + 1 < parts.len())];
        value.extend(*bytes);
        store.set(&part(key, number), &value)?;
    }
    Ok(())
}

/// The value, once it is there.
pub(crate) fn wait_long(store: &dyn Store, key: &str, deadline: Instant) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for number in 0.. {
        let value = store.wait(&part(key, number), deadline)?;
        let (more, rest) = value.split_first().unwrap_or((&0, &[]));
        bytes.extend(rest);
        if *more == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// True if the value is there.
pub(crate) fn has_long(store: &dyn Store, key: &str) -> Result<bool> {
    Ok(store.read(&part(key, 0))?.is_some())
}
