//! Binds the caller's bytes to the inputs and outputs of a world.
//!
//! Two ways: global tensors, scattered to every rank by its placements and gathered from them; or
//! the caller's own slices, one a rank and buffer. What is bound stays bound over many runs. A
//! tensor that several ranks hold alike (weights) is held once.
//!
//! Gathering is strict: an element that several ranks deliver must have the same bits on all
//! (invariant I7), and every element must be delivered. Tests: `tests/exec_host.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Prepared;
use super::memory::{Bytes, Slot};
use crate::error::{Error, Result};
use crate::exec::placed::{check_tensor, for_each_run, gather, missing, names, placed};
use crate::exec::{HostTensor, Report};
use crate::plan::{Buffer, BufferId, Placement, Role};

/// The bytes bound to all inputs and outputs of a world.
pub struct Bindings<'a> {
    buffers: Arc<Vec<Vec<Buffer>>>,
    bound: Vec<Vec<Bound<'a>>>,
}

enum Bound<'a> {
    Nothing,
    Shared(Arc<Bytes>),
    Owned(Bytes),
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

impl<'a> Bindings<'a> {
    pub(super) fn new(buffers: Arc<Vec<Vec<Buffer>>>) -> Self {
        let bound = buffers.iter().map(|list| list.iter().map(|_| Bound::Nothing).collect()).collect();
        Self { buffers, bound }
    }

    /// Scatters a global tensor to the input buffers of every rank that hold a part of it.
    ///
    /// # Errors
    /// A name that no input has, or a dtype or extents that the plans do not expect.
    pub fn set(&mut self, name: &str, tensor: &HostTensor) -> Result<()> {
        let buffers = self.buffers.clone();
        let mut held: Vec<(&Placement, Arc<Bytes>)> = Vec::new();
        for (rank, id, buffer, placement) in placed(&buffers, Role::Input) {
            if placement.tensor != name {
                continue;
            }
            check_tensor(name, tensor, buffer, placement)?;
            let known = held.iter().find(|(other, _)| other.index == placement.index).map(|(_, bytes)| bytes.clone());
            let bytes = match known {
                Some(bytes) => bytes,
                None => {
                    let mut bytes = Bytes::filled(buffer.bytes(), 0);
                    let local = bytes.as_mut_slice();
                    for_each_run(buffer, placement, |at, global, len| {
                        local[at..at + len].copy_from_slice(&tensor.bytes[global..global + len]);
                    });
                    let bytes = Arc::new(bytes);
                    held.push((placement, bytes.clone()));
                    bytes
                }
            };
            self.bound[rank][id] = Bound::Shared(bytes);
        }
        if held.is_empty() {
            let known = names(&self.buffers, Role::Input).join(", ");
            return Err(Error::Bind(format!("no input tensor \"{name}\": the plan's inputs are {known}")));
        }
        Ok(())
    }

    /// Binds the caller's own bytes to an input buffer of one rank. They are aligned to its dtype.
    ///
    /// # Errors
    /// No such buffer, one that is no input, or another number of bytes.
    pub fn input(&mut self, rank: usize, buffer: BufferId, bytes: &'a [u8]) -> Result<()> {
        *self.slot(rank, buffer, Role::Input, bytes.len())? = Bound::Read(bytes);
        Ok(())
    }

    /// Binds the caller's own bytes to an output buffer of one rank. They are aligned to its
    /// dtype.
    ///
    /// # Errors
    /// No such buffer, one that is no output, or another number of bytes.
    pub fn output(&mut self, rank: usize, buffer: BufferId, bytes: &'a mut [u8]) -> Result<()> {
        let len = bytes.len();
        *self.slot(rank, buffer, Role::Output, len)? = Bound::Write(bytes);
        Ok(())
    }

    /// The global output tensors, gathered from the last run.
    ///
    /// # Errors
    /// An element that two ranks deliver with different bits, or that none delivers.
    pub fn gather(&self) -> Result<BTreeMap<String, HostTensor>> {
        gather(&self.buffers, |rank, id| match &self.bound[rank][id] {
            Bound::Owned(bytes) => Some(bytes.as_slice()),
            Bound::Write(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// Binds own bytes to the outputs that the caller has bound nothing to, and lends everything
    /// for a run.
    pub(super) fn lend(&mut self, poison: bool) -> Result<Vec<Vec<Option<Slot<'_>>>>> {
        for (rank, (buffers, bound)) in self.buffers.iter().zip(&mut self.bound).enumerate() {
            for (buffer, bound) in buffers.iter().zip(bound) {
                if buffer.role == Role::Output && matches!(bound, Bound::Nothing) {
                    *bound = Bound::Owned(Bytes::filled(buffer.bytes(), 0));
                }
                if let (Bound::Owned(bytes), true) = (&mut *bound, poison) {
                    bytes.as_mut_slice().fill(super::POISON);
                }
                if buffer.role == Role::Input && matches!(bound, Bound::Nothing) {
                    return Err(missing(rank, buffer));
                }
            }
        }
        Ok(self.bound.iter_mut().map(|list| list.iter_mut().map(lend).collect()).collect())
    }

    pub(super) fn fits(&self, buffers: &Arc<Vec<Vec<Buffer>>>) -> bool {
        Arc::ptr_eq(&self.buffers, buffers)
    }

    fn slot(&mut self, rank: usize, id: BufferId, role: Role, len: usize) -> Result<&mut Bound<'a>> {
        let buffer = self
            .buffers
            .get(rank)
            .and_then(|list| list.get(id.0 as usize))
            .ok_or_else(|| Error::Bind(format!("no buffer {} on rank {rank}", id.0)))?;
        if buffer.role != role {
            return Err(Error::Bind(format!("buffer {} is no {role:?} but {:?}", buffer.name, buffer.role)));
        }
        if buffer.bytes() != len {
            return Err(Error::Bind(format!(
                "buffer {} of rank {rank} has {} bytes ({} {:?}), {len} were given",
                buffer.name,
                buffer.bytes(),
                buffer.dtype,
                buffer.dims
            )));
        }
        Ok(&mut self.bound[rank][id.0 as usize])
    }
}

/// Scatters `inputs`, runs, and gathers the outputs.
///
/// # Errors
/// A missing or unknown tensor, one of another dtype or other extents than the plans expect, and
/// what [`Prepared::run`] and [`Bindings::gather`] report.
pub fn run_tensors(
    prepared: &mut Prepared,
    inputs: &BTreeMap<String, HostTensor>,
) -> Result<(BTreeMap<String, HostTensor>, Report)> {
    let mut bindings = prepared.bindings();
    for (name, tensor) in inputs {
        bindings.set(name, tensor)?;
    }
    let report = prepared.run(&mut bindings)?;
    Ok((bindings.gather()?, report))
}

fn lend<'s>(bound: &'s mut Bound<'_>) -> Option<Slot<'s>> {
    match bound {
        Bound::Nothing => None,
        Bound::Shared(bytes) => Some(Slot::Read(bytes.as_slice())),
        Bound::Read(bytes) => Some(Slot::Read(bytes)),
        Bound::Owned(bytes) => Some(Slot::Write(bytes.as_mut_slice())),
        Bound::Write(bytes) => Some(Slot::Write(bytes)),
    }
}
