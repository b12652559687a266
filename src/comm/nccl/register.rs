//! Buffers that NCCL may use in place.

use std::ffi::c_void;

use super::communicator::Communicator;
use super::failure::checked;
use super::member::function;
use super::memory::Memory;
use super::split::Slot;
use crate::error::{Error, Result};
use crate::ffi::nccl::abi::*;
use crate::rendezvous::until;

/// A registered buffer, until it is deregistered or its communicator ends.
#[derive(Debug)]
pub struct Registration {
    handle: usize,
    comm: usize,
}

/// A registered buffer that all ranks have at one offset, until it is deregistered or its
/// communicator ends.
#[derive(Debug)]
pub struct Window {
    handle: usize,
    comm: usize,
}

impl Communicator {
    /// Memory as registration wants it: from NCCL, of the current device.
    ///
    /// # Errors
    /// A library without it (before 2.19), and what NCCL says: out of memory above all.
    pub fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.member.attempt("allocate", None, || Memory::new(&self.member.library, bytes))
    }

    /// Registers a buffer with this communicator. If one rank passes registered buffers to an op, all must.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: NCCL declines (`NCCL_LOCAL_REGISTER=0`). A library without it (before
    /// 2.19), and what NCCL says.
    ///
    /// # Safety
    /// The memory is alive until it is deregistered or the communicator has ended.
    pub unsafe fn register(&mut self, address: u64, bytes: usize) -> Result<Registration> {
        let member = &self.member;
        let (handle, comm) = member.attempt("register", None, || {
            let call = function!(member.library, ncclCommRegister)?;
            let mut handle = std::ptr::null_mut();
            let inside = member.enter()?;
            // SAFETY: inside with a live handle; the caller's promise of the memory; writes one pointer.
            let code = unsafe { call(inside.comm, address as *mut c_void, bytes, &mut handle) };
            checked(&member.library, "ncclCommRegister", code)?;
            Ok((handle as usize, inside.comm as usize))
        })?;
        if handle == 0 {
            return Err(declined("register", bytes, "NCCL_LOCAL_REGISTER=0, or transport by memcpy"));
        }
        Ok(Registration { handle, comm })
    }

    /// Takes a buffer back.
    ///
    /// # Errors
    /// A registration of another communicator, and what NCCL says.
    pub fn deregister(&mut self, registration: Registration) -> Result<()> {
        let member = &self.member;
        let foreign = member.attempt("deregister", None, || {
            let call = function!(member.library, ncclCommDeregister)?;
            let inside = member.enter()?;
            if inside.comm as usize != registration.comm {
                return Ok(true);
            }
            // SAFETY: inside with a live handle, which gave this one.
            let code = unsafe { call(inside.comm, registration.handle as *mut c_void) };
            checked(&member.library, "ncclCommDeregister", code).map(|()| false)
        })?;
        if foreign { Err(of_another("registration")) } else { Ok(()) }
    }

    /// Registers a window: all ranks call it, with buffers of one size. `symmetric` windows are what
    /// copy-engine collectives need.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: NCCL makes no window between these ranks. A library without it (before
    /// 2.27), [`crate::error::FailureKind::Timeout`], and what NCCL says.
    ///
    /// # Safety
    /// As [`Communicator::register`]. The buffer starts at a multiple of 4096 bytes, and is in no
    /// other window.
    pub unsafe fn register_window(&mut self, address: u64, bytes: usize, symmetric: bool) -> Result<Window> {
        let member = &self.member;
        let flags = if symmetric { NCCL_WIN_COLL_SYMMETRIC } else { NCCL_WIN_DEFAULT };
        let (handle, comm) = member.attempt("register window", None, || {
            let call = function!(member.library, ncclCommWindowRegister)?;
            let inside = member.enter()?;
            let (comm, slot) = (inside.comm as usize, Slot::new());
            // SAFETY: inside with a live handle; the caller's promise of the memory; the slot lives
            // until NCCL has written it.
            let code = unsafe { call(inside.comm, address as *mut c_void, bytes, slot.place(), flags) };
            drop(inside);
            checked(&member.library, "ncclCommWindowRegister", code)?;
            member.settle("ncclCommWindowRegister", until(self.op_deadline))?;
            Ok((slot.take() as usize, comm))
        })?;
        // What is not supported is a success that leaves the handle as it was.
        match handle {
            0 => Err(declined("make a window", bytes, "no peer access between all ranks, or NCCL_CUMEM_ENABLE=0")),
            _ => Ok(Window { handle, comm }),
        }
    }

    /// Takes a window back. All ranks call it.
    ///
    /// # Errors
    /// A window of another communicator, and what NCCL says.
    pub fn deregister_window(&mut self, window: Window) -> Result<()> {
        let member = &self.member;
        let foreign = member.attempt("deregister window", None, || {
            let call = function!(member.library, ncclCommWindowDeregister)?;
            let inside = member.enter()?;
            if inside.comm as usize != window.comm {
                return Ok(true);
            }
            // SAFETY: inside with a live handle, which gave this one.
            let code = unsafe { call(inside.comm, window.handle as ncclWindow_t) };
            drop(inside);
            checked(&member.library, "ncclCommWindowDeregister", code)?;
            member.settle("ncclCommWindowDeregister", until(self.op_deadline)).map(|()| false)
        })?;
        if foreign { Err(of_another("window")) } else { Ok(()) }
    }
}

fn declined(what: &str, bytes: usize, why: &str) -> Error {
    Error::Unsupported(format!("NCCL does not {what} of {bytes} bytes ({why}): use the buffer unregistered"))
}

fn of_another(what: &str) -> Error {
    Error::Bind(format!("a {what} of another communicator: give it back where it was made"))
}
