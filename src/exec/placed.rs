//! Global tensors and the parts of them that ranks hold: scattered by placement, gathered strictly.
//!
//! An element that several ranks deliver must have the same bits on all (invariant I7), and every
//! element must be delivered. Tests: `tests/exec_host.rs`.

use std::collections::BTreeMap;

use super::HostTensor;
use crate::error::{Error, Result};
use crate::plan::{Buffer, Placement, Role};

const NOBODY: u32 = u32::MAX;

/// The global output tensors of a world; `local` gives the bytes of an output buffer by rank and
/// index.
///
/// # Errors
/// An element that two ranks deliver with different bits, or that none delivers; an output without
/// bytes.
pub(super) fn gather<'a>(
    buffers: &[Vec<Buffer>],
    local: impl Fn(usize, usize) -> Option<&'a [u8]>,
) -> Result<BTreeMap<String, HostTensor>> {
    let mut tensors: BTreeMap<String, (HostTensor, Vec<u32>)> = BTreeMap::new();
    for (rank, id, buffer, placement) in placed(buffers, Role::Output) {
        let local = local(rank, id)
            .ok_or_else(|| Error::Bind(format!("output {} of rank {rank} is not bound: run first", buffer.name)))?;
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

/// What is said of an input that is not there.
pub(super) fn missing(rank: usize, buffer: &Buffer) -> Error {
    Error::Bind(match &buffer.placement {
        Some(placement) => format!(
            "input tensor \"{}\" is missing: expected {} {:?} (rank {rank}, buffer {})",
            placement.tensor, buffer.dtype, placement.dims, buffer.name
        ),
        None => format!("input buffer {} of rank {rank} is not bound", buffer.name),
    })
}

/// The placed buffers of a role: rank, index, buffer, placement.
pub(super) fn placed(buffers: &[Vec<Buffer>], role: Role) -> impl Iterator<Item = (usize, usize, &Buffer, &Placement)> {
    let all =
        buffers.iter().enumerate().flat_map(|(rank, list)| list.iter().enumerate().map(move |(i, b)| (rank, i, b)));
    all.filter(move |(_, _, buffer)| buffer.role == role)
        .filter_map(|(rank, i, buffer)| buffer.placement.as_ref().map(|placement| (rank, i, buffer, placement)))
}

pub(super) fn names(buffers: &[Vec<Buffer>], role: Role) -> Vec<String> {
    let mut names: Vec<String> = placed(buffers, role).map(|(.., placement)| placement.tensor.clone()).collect();
    names.sort();
    names.dedup();
    names
}

pub(super) fn check_tensor(name: &str, tensor: &HostTensor, buffer: &Buffer, placement: &Placement) -> Result<()> {
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
pub(super) fn for_each_run(buffer: &Buffer, placement: &Placement, mut visit: impl FnMut(usize, usize, usize)) {
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
