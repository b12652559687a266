//! Communicators made from another: of some of its ranks, or of those that survive.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use super::communicator::Communicator;
use super::config::{Config, RawConfig, Strings};
use super::failure::{Fault, checked};
use super::family::Family;
use super::library::Library;
use super::member::{Member, function};
use super::status::Status;
use crate::error::{Error, FailureKind, Result};
use crate::ffi::nccl::abi::*;
use crate::rendezvous::until;

impl Communicator {
    /// A communicator of the ranks that give the same `color`, ordered by `key`, then by rank; `None`
    /// for a rank that gives no color. All ranks call it. It is of the same family.
    ///
    /// # Errors
    /// [`FailureKind::Timeout`] at the deadline, and what NCCL says.
    pub fn split(&mut self, color: Option<u32>, key: u32, config: &Config, deadline: Duration) -> Result<Option<Self>> {
        let c_color = color.map(|color| small("color", color)).transpose()?.unwrap_or(NCCL_SPLIT_NOCOLOR);
        let c_key = small("key", key)?;
        let RawConfig { config: mut raw, strings } = config.raw()?;
        let (member, until) = (&*self.member, until(deadline));
        let (comm, strings) = member.attempt("split", None, || {
            let split = function!(member.library, ncclCommSplit)?;
            let inside = member.enter()?;
            let (slot, strings) = (Slot::new(), Kept(Some(strings)));
            // SAFETY: inside with a live handle; the config lives until the call returns, its
            // strings and the slot until NCCL is done with them.
            let code = unsafe { split(inside.comm, c_color, c_key, slot.place(), &mut raw) };
            drop(inside);
            checked(&member.library, "ncclCommSplit", code)?;
            member.settle("ncclCommSplit", until)?;
            Ok((slot.take(), strings.take()))
        })?;
        if comm.is_null() && color.is_none() {
            return Ok(None);
        }
        let shares = self.shares || config.shares();
        self.child("ncclCommSplit", comm, config, strings, member.family.clone(), shares).map(Some)
    }

    /// A communicator of all ranks but `without`, in their order, which each of them calls with the
    /// same ranks while the others are lost. What is in flight is aborted first. A new family: it
    /// works though this one is poisoned.
    ///
    /// # Errors
    /// A library without it (before 2.27), [`FailureKind::Timeout`], and what NCCL says.
    pub fn shrink(&mut self, without: &[usize], config: &Config, deadline: Duration) -> Result<Self> {
        let (rank, world) = (self.rank(), self.world());
        if without.is_empty() || without.iter().any(|&lost| lost >= world || lost == rank) {
            let why = format!("ranks {without:?} to leave out of {world}: at least one, and not this one ({rank})");
            return Err(Error::Mesh(why));
        }
        let mut lost: Vec<c_int> = without.iter().map(|&rank| rank as c_int).collect();
        // NCCL takes the list's length for the number of ranks that go.
        lost.sort_unstable();
        lost.dedup();
        let count = lost.len() as c_int;
        let RawConfig { config: mut raw, strings } = config.raw()?;
        let (member, until, begin) = (&*self.member, until(deadline), Instant::now());
        let made = (|| {
            let shrink = function!(member.library, ncclCommShrink)?;
            let inside = member.enter_poisoned()?;
            let (slot, strings) = (Slot::new(), Kept(Some(strings)));
            // SAFETY: as in `split`; NCCL copies the list.
            let code =
                unsafe { shrink(inside.comm, lost.as_mut_ptr(), count, slot.place(), &mut raw, NCCL_SHRINK_ABORT) };
            drop(inside);
            checked(&member.library, "ncclCommShrink", code)?;
            member.settle_poisoned("ncclCommShrink", until)?;
            Ok((slot.take(), strings.take()))
        })();
        let (comm, strings) = made.map_err(|fault| member.error(fault, "shrink", None, begin))?;
        self.child("ncclCommShrink", comm, config, strings, Arc::default(), false)
    }

    fn child(
        &self,
        call: &'static str,
        comm: ncclComm_t,
        config: &Config,
        strings: Strings,
        family: Arc<Family>,
        shares: bool,
    ) -> Result<Self> {
        let (library, begin) = (&self.member.library, Instant::now());
        let failed = |fault| self.member.error(fault, call, None, begin);
        if comm.is_null() {
            let why = "success, but no communicator".to_string();
            return Err(failed(FailureKind::Library { call, code: ncclSuccess, why }.into()));
        }
        // SAFETY: NCCL has just made the handle, and no other thread has it.
        let place = unsafe { place(library, comm) };
        let (rank, world) = place.as_ref().map_or((0, 1), |&place| place);
        let member = Member {
            library: library.clone(),
            handle: Default::default(),
            family,
            status: Arc::new(Status::new(config.name.clone(), rank, world)),
            reaper_deadline: config.reaper_deadline,
            _strings: strings,
        };
        member.handle.set(comm);
        let child = Self::of(member, config, shares);
        // A failure drops the child, which aborts it.
        place.map_err(failed)?;
        Ok(child)
    }
}

/// Rank and world.
///
/// # Safety
/// The handle is alive and no other thread uses it.
unsafe fn place(library: &Library, comm: ncclComm_t) -> Result<(usize, usize), Fault> {
    let (mut rank, mut world) = (0, 0);
    // SAFETY: the caller's promise; each writes one integer.
    unsafe {
        checked(library, "ncclCommUserRank", function!(library, ncclCommUserRank)?(comm, &mut rank))?;
        checked(library, "ncclCommCount", function!(library, ncclCommCount)?(comm, &mut world))?;
    }
    Ok((usize::try_from(rank).unwrap_or(0), usize::try_from(world).unwrap_or(0)))
}

fn small(what: &str, value: u32) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::Mesh(format!("{what} {value} of a split: at most {}", c_int::MAX)))
}

/// Where NCCL's threads write a handle some time later. It is given back by `take`, when they have;
/// left in place otherwise, since they may still.
pub(super) struct Slot(&'static AtomicPtr<std::ffi::c_void>);

impl Slot {
    pub(super) fn new() -> Self {
        Self(Box::leak(Box::default()))
    }

    pub(super) fn place(&self) -> *mut *mut std::ffi::c_void {
        self.0.as_ptr()
    }

    /// Null if nothing was written. To be called when NCCL has settled.
    pub(super) fn take(self) -> *mut std::ffi::c_void {
        // SAFETY: leaked by `new`, and `self` ends here.
        let slot = unsafe { Box::from_raw(std::ptr::from_ref(self.0).cast_mut()) };
        slot.load(Ordering::Acquire)
    }
}

/// Strings that NCCL may read until it has settled: left in place unless they are taken.
struct Kept(Option<Strings>);

impl Kept {
    fn take(mut self) -> Strings {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}
