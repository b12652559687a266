//! Handles: what the header's opaque pointers stand for.
//!
//! A handle is a number in the place of a pointer, and nobody looks behind it: what it stands for is in
//! a list of all live ones. Numbers are never given twice, so a handle that was given back, one of
//! another kind and a pointer to something else are told, whatever memory they once had. A call holds
//! what it works on: another thread that gives it back meanwhile takes nothing from under it.
//! Test: `tests/capi/handles.rs`.

use std::any::Any;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::read::{check_pointer, store};
use super::status::{Fault, Outcome};

/// What a handle of one kind stands for.
pub(super) trait Held: Send + Sync + 'static {
    /// Name in the header.
    const NAME: &'static str;
}

/// What an opaque pointer of the header claims to point to.
#[derive(Debug)]
pub struct Handle<T> {
    nobody_makes_one: PhantomData<T>,
}

static LIVE: RwLock<BTreeMap<usize, Arc<dyn Any + Send + Sync>>> = RwLock::new(BTreeMap::new());

/// Beyond every address of a process: a caller that looks behind a handle is stopped by the machine.
const FIRST: usize = 1 << (usize::BITS - 2);

/// Hands a new handle to the caller.
pub(super) fn give<T: Held>(held: T, place: *mut *mut Handle<T>) -> Outcome {
    static NEXT: AtomicUsize = AtomicUsize::new(FIRST);
    check_pointer(place, "the place for the handle")?;
    let number = NEXT.fetch_add(16, Ordering::Relaxed);
    LIVE.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(held));
    store(place, std::ptr::without_provenance_mut(number), "the place for the handle")
}

/// What a handle stands for.
pub(super) fn held<T: Held>(handle: *const Handle<T>) -> Outcome<Arc<T>> {
    if handle.is_null() {
        return Err(Fault::argument(format!("{} is null", T::NAME)));
    }
    let found = LIVE.read().unwrap_or_else(PoisonError::into_inner).get(&handle.addr()).cloned();
    let held = found.and_then(|held| held.downcast::<T>().ok());
    held.ok_or_else(|| {
        Fault::argument(format!(
            "this is no {}, or it was destroyed: pass what its own function made, as long as it lives",
            T::NAME
        ))
    })
}

/// Takes a handle back; null, foreign and destroyed ones are left alone.
pub(super) fn take<T: Held>(handle: *mut Handle<T>) -> Option<Arc<T>> {
    let held = held(handle.cast_const()).ok()?;
    // Of two threads that give it back, one does.
    LIVE.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.addr())?;
    Some(held)
}
