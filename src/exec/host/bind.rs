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
use super::tensor::HostTensor;
use crate::error::{Error, Result};
use crate::exec::Report;
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
        let mut tensors: BTreeMap<String, (HostTensor, Vec<u32>)> = BTreeMap::new();
        for (rank, id, buffer, placement) in placed(&self.buffers, Role::Output) {
            let local = match &self.bound[rank][id] {
                Bound::Owned(bytes) => bytes.as_slice(),
                Bound::Write(bytes) => bytes,
                _ => return Err(Error::Bind(format!("output {} of rank {rank} is not bound: run first", buffer.name))),
            };
            let (tensor, owners) = tensors.entry(placement.tensor.clone()).or_insert_with(|| {
                let elems = placement.dims.iter().product();
                (HostTensor::zeros(buffer.dtype, placement.dims), vec![NOBODY; elems])
            });
            check_tensor(&placement.tensor, tensor, buffer, placement)?;
            let size = buffer.dtype.bytes();
            let mut conflict = None;
            for_each_run(buffer, placement, |at, global, len| {
                for offset in (0..len).step_by(size) {
                    let owner = &mut owners[(global + offset) / size];
                    let (to, from) = (global + offset..global + offset + size, at + offset..at + offset + size);
                    if *owner == NOBODY {
                        *owner = rank as u32;
                        tensor.bytes[to].copy_from_slice(&local[from]);
                    } else if tensor.bytes[to] != local[from] && conflict.is_none() {
                        conflict = Some((*owner, (global + offset) / size));
                    }
                }
            });
            if let Some((owner, elem)) = conflict {
                return Err(Error::Bind(format!(
                    "output tensor \"{}\": ranks {owner} and {rank} deliver different bits of element {:?}",
                    placement.tensor,
                    unravel(elem, placement.dims)
                )));
            }
        }
        for (name, (tensor, owners)) in &tensors {
            if let Some(elem) = owners.iter().position(|owner| *owner == NOBODY) {
                return Err(Error::Bind(format!(
                    "output tensor \"{name}\": no rank delivers element {:?}",
                    unravel(elem, tensor.dims)
                )));
            }
        }
        Ok(tensors.into_iter().map(|(name, (tensor, _))| (name, tensor)).collect())
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

fn missing(rank: usize, buffer: &Buffer) -> Error {
    Error::Bind(match &buffer.placement {
        Some(placement) => format!(
            "input tensor \"{}\" is missing: expected {} {:?} (rank {rank}, buffer {})",
            placement.tensor, buffer.dtype, placement.dims, buffer.name
        ),
        None => format!("input buffer {} of rank {rank} is not bound", buffer.name),
    })
}

const NOBODY: u32 = u32::MAX;

fn lend<'s>(bound: &'s mut Bound<'_>) -> Option<Slot<'s>> {
    match bound {
        Bound::Nothing => None,
        Bound::Shared(bytes) => Some(Slot::Read(bytes.as_slice())),
        Bound::Read(bytes) => Some(Slot::Read(bytes)),
        Bound::Owned(bytes) => Some(Slot::Write(bytes.as_mut_slice())),
        Bound::Write(bytes) => Some(Slot::Write(bytes)),
    }
}

/// The placed buffers of a role: rank, index, buffer, placement.
fn placed(buffers: &[Vec<Buffer>], role: Role) -> impl Iterator<Item = (usize, usize, &Buffer, &Placement)> {
    let all =
        buffers.iter().enumerate().flat_map(|(rank, list)| list.iter().enumerate().map(move |(i, b)| (rank, i, b)));
    all.filter(move |(_, _, buffer)| buffer.role == role)
        .filter_map(|(rank, i, buffer)| buffer.placement.as_ref().map(|placement| (rank, i, buffer, placement)))
}

fn names(buffers: &[Vec<Buffer>], role: Role) -> Vec<String> {
    let mut names: Vec<String> = placed(buffers, role).map(|(.., placement)| placement.tensor.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn check_tensor(name: &str, tensor: &HostTensor, buffer: &Buffer, placement: &Placement) -> Result<()> {
    let found = (tensor.dtype, tensor.dims);
    let expected = (buffer.dtype, placement.dims);
    if found != expected {
        return Err(Error::Bind(format!(
            "tensor \"{name}\": expected {} {:?}, found {} {:?}",
            expected.0, expected.1, found.0, found.1
        )));
    }
    if tensor.bytes.len() != placement.dims.iter().product::<usize>() * tensor.dtype.bytes() {
        return Err(Error::Bind(format!("tensor \"{name}\": {} bytes are not {:?}", tensor.bytes.len(), tensor.dims)));
    }
    Ok(())
}

/// Refuses a placement that does not describe its buffer.
pub(super) fn check_placement(rank: usize, buffer: &Buffer) -> Result<()> {
    let Some(placement) = &buffer.placement else { return Ok(()) };
    for i in 0..4 {
        let len = placement.index[i].as_ref().map_or(placement.dims[i], |map| map.len());
        let out =
            placement.index[i].iter().flat_map(|map| map.runs()).any(|run| run.start + run.len > placement.dims[i]);
        if len != buffer.dims[i] || out {
            return Err(Error::Bind(format!(
                "buffer {} of rank {rank} has {:?}, but its placement in \"{}\" {:?} gives dimension {i} {len} indices{}",
                buffer.name,
                buffer.dims,
                placement.tensor,
                placement.dims,
                if out { ", some beyond its end" } else { "" }
            )));
        }
    }
    Ok(())
}

/// Visits the parts of a buffer that are runs in the global tensor too: (byte offset in the
/// buffer, byte offset in the tensor, bytes).
fn for_each_run(buffer: &Buffer, placement: &Placement, mut visit: impl FnMut(usize, usize, usize)) {
    let size = buffer.dtype.bytes();
    let dims = placement.dims;
    let runs: [Vec<(usize, usize)>; 4] = std::array::from_fn(|i| match &placement.index[i] {
        Some(map) => map.runs().iter().map(|run| (run.start, run.len)).collect(),
        None => vec![(0, dims[i])],
    });
    // The first dimension behind which everything is whole: runs along it are one piece.
    let whole = |i: usize| runs[i] == [(0, dims[i])];
    let inner = (0..4).rev().find(|&i| !whole(i)).unwrap_or(0);
    let block: usize = dims[inner + 1..].iter().product();
    let mut at = 0;
    let mut walk = vec![(0usize, 0usize)];
    // Depth-first over the outer dimensions, in local order.
    while let Some((dim, offset)) = walk.pop() {
        if dim == inner {
            for &(start, len) in &runs[dim] {
                let bytes = len * block * size;
                if bytes > 0 {
                    visit(at, (offset * dims[dim] + start) * block * size, bytes);
                }
                at += bytes;
            }
            continue;
        }
        let indices: Vec<usize> = runs[dim].iter().flat_map(|&(start, len)| start..start + len).collect();
        walk.extend(indices.into_iter().rev().map(|index| (dim + 1, offset * dims[dim] + index)));
    }
}

fn unravel(mut elem: usize, dims: [usize; 4]) -> [usize; 4] {
    let mut index = [0; 4];
    for i in (0..4).rev() {
        index[i] = elem % dims[i];
        elem /= dims[i];
    }
    index
}
