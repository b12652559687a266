//! Rules of the law that concern regions: ids and bounds, coverage, aliasing.

use super::boxes::{Boxes, span};
use super::{Access, OpId, OpKind, Plan, Region, Role};
use crate::error::{Error, Result};
use crate::kernel::spec::Mode;

/// A broken rule, found at no op of the plan.
pub(super) fn law(plan: &Plan, op: &str, why: impl Into<String>) -> Error {
    Error::Law { rank: plan.rank as usize, op: op.to_string(), why: why.into() }
}

/// A broken rule, found at `op`.
pub(super) fn at(plan: &Plan, op: OpId, why: impl Into<String>) -> Error {
    law(plan, plan.label(op), why)
}

/// `buffer[0:2, 3:4, …]`.
pub(super) fn named(plan: &Plan, access: &Access) -> String {
    named_region(plan, access.buffer.0 as usize, &access.region)
}

pub(super) fn named_region(plan: &Plan, buffer: usize, region: &Region) -> String {
    let ranges: Vec<String> = (0..4).map(|i| format!("{}:{}", region.start[i], region.end[i])).collect();
    format!("{}[{}]", plan.buffers[buffer].name, ranges.join(", "))
}

/// Every id in range, every region inside its buffer, every shape of as many elements.
pub(super) fn well_formed(plan: &Plan) -> Result<()> {
    if plan.rank >= plan.world {
        return Err(law(plan, "plan", format!("rank {} in a world of {}", plan.rank, plan.world)));
    }
    for buffer in &plan.buffers {
        let bytes = buffer.dims.iter().try_fold(buffer.dtype.bytes(), |n, &dim| n.checked_mul(dim));
        if bytes.is_none() || buffer.dims.iter().any(|&dim| dim > u32::MAX as usize) {
            let why = format!("buffer {} {:?} is larger than an address space", buffer.name, buffer.dims);
            return Err(law(plan, "plan", why));
        }
    }
    if let Some(comm) = plan.comms.iter().find(|comm| comm.group as usize >= plan.groups.len()) {
        return Err(law(plan, "plan", format!("tag {} names a group that the plan has not", comm.tag.0)));
    }
    for (index, op) in plan.ops.iter().enumerate() {
        let Some(label) = plan.labels.get(op.label as usize) else {
            return Err(law(plan, "plan", format!("op {index} names a label that the plan has not")));
        };
        let in_range = match op.kind {
            OpKind::Kernel(i) => (i as usize) < plan.kernels.len(),
            OpKind::Comm(i) => (i as usize) < plan.comms.len(),
            OpKind::External(i) => (i as usize) < plan.externals.len(),
            OpKind::Copy | OpKind::Mark => true,
        };
        let accesses = op.first_access as usize..op.first_access as usize + op.access_count as usize;
        let Some(accesses) = plan.accesses.get(accesses).filter(|_| in_range) else {
            return Err(law(plan, label, "names a kernel, communication or access that the plan has not"));
        };
        if op.stream.0 as usize >= plan.streams.len() {
            return Err(law(plan, label, format!("is on stream {}, which the plan has not", op.stream.0)));
        }
        for access in accesses {
            access_in_range(plan, label, access)?;
        }
    }
    Ok(())
}

fn access_in_range(plan: &Plan, label: &str, access: &Access) -> Result<()> {
    let Some(buffer) = plan.buffers.get(access.buffer.0 as usize) else {
        return Err(law(plan, label, format!("touches buffer {}, which the plan has not", access.buffer.0)));
    };
    let name = || named(plan, access);
    if (0..4).any(|i| access.region.end[i] as usize > buffer.dims[i] || access.region.start[i] > access.region.end[i]) {
        return Err(law(plan, label, format!("{} leaves the buffer's extents {:?}", name(), buffer.dims)));
    }
    let elems = access.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    if elems != Some(access.region.elems()) {
        let why = format!("{} has {} elements, its shape {:?} has not", name(), access.region.elems(), access.shape);
        return Err(law(plan, label, why));
    }
    if access.shape != access.region.extents() && !access.region.is_contiguous(buffer.dims) {
        let why = format!(
            "{} is seen as {:?}, but is not one run of memory: reshape only contiguous regions",
            name(),
            access.shape
        );
        return Err(law(plan, label, why));
    }
    Ok(())
}

/// Every read is covered by inputs or earlier writes, inputs are only read, outputs are whole at
/// the end. Plan order suffices: the derived edges order a read after each write it overlaps.
pub(super) fn coverage(plan: &Plan) -> Result<()> {
    let mut written: Vec<Option<Boxes<()>>> = plan.buffers.iter().map(|_| None).collect();
    for id in plan.op_ids() {
        for access in plan.accesses(id) {
            let buffer = plan.buffer(access.buffer);
            if buffer.role == Role::Input {
                if access.mode.writes() {
                    let why = format!("writes {}, an input: write a temporary or an output", named(plan, access));
                    return Err(at(plan, id, why));
                }
            } else if access.mode.reads()
                && let Some(hole) = hole(written[access.buffer.0 as usize].as_ref(), access.region)
            {
                let why = format!(
                    "reads {}, of which nothing earlier wrote {}: write it before, or read less",
                    named(plan, access),
                    named_region(plan, access.buffer.0 as usize, &hole)
                );
                return Err(at(plan, id, why));
            }
        }
        for access in plan.accesses(id).iter().filter(|a| a.mode.writes()) {
            let dims = plan.buffer(access.buffer).dims;
            let boxes = written[access.buffer.0 as usize].get_or_insert_with(|| Boxes::new(dims));
            if hole(Some(boxes), access.region).is_some() {
                boxes.remove_inside(&access.region);
                boxes.insert(access.region, ());
            }
        }
    }
    for (index, buffer) in plan.buffers.iter().enumerate().filter(|(_, buffer)| buffer.role == Role::Output) {
        if let Some(hole) = hole(written[index].as_ref(), Region::whole(buffer.dims)) {
            let why = format!("no op writes {}: an output is whole at the end", named_region(plan, index, &hole));
            let last =
                plan.op_ids().filter(|&id| plan.accesses(id).iter().any(|a| a.buffer.0 as usize == index)).last();
            return Err(law(plan, last.map_or("end of plan", |id| plan.label(id)), why));
        }
    }
    Ok(())
}

/// A part of `region` that no box of `written` holds.
pub(super) fn hole(written: Option<&Boxes<()>>, region: Region) -> Option<Region> {
    let Some(written) = written else { return Some(region).filter(|region| !region.is_empty()) };
    // Most reads lie inside one write.
    if written.overlapping(region).any(|(done, _)| done.contains(&region)) {
        return None;
    }
    let (mut rest, mut next) = (vec![region], Vec::new());
    for (done, _) in written.overlapping(region) {
        rest.iter().for_each(|part| part.subtract_into(done, &mut next));
        std::mem::swap(&mut rest, &mut next);
        next.clear();
        if rest.is_empty() {
            break;
        }
    }
    rest.into_iter().find(|part| !part.is_empty())
}

/// Within one op, nothing is written twice, and what is written is read only in place: a residual
/// in the same elements, or an external call's own business.
pub(super) fn aliasing(plan: &Plan) -> Result<()> {
    for id in plan.op_ids().filter(|&id| !matches!(plan.op(id).kind, OpKind::External(_))) {
        let mut sorted: Vec<(usize, usize, &Access)> = plan
            .accesses(id)
            .iter()
            .map(|access| (span(&access.region, plan.buffer(access.buffer).dims), access))
            .map(|((start, end), access)| (start, end, access))
            .collect();
        if !sorted.iter().any(|(_, _, access)| access.mode.writes()) {
            continue;
        }
        sorted.sort_by_key(|(start, _, access)| (access.buffer, *start));
        let is_residual = |a: &Access| {
            let operands = plan.kernel(id).map(|kernel| kernel.operands()).unwrap_or_default();
            operands.get(a.operand as usize).is_some_and(|o| o.name == "residual")
        };
        for (i, (_, end, a)) in sorted.iter().enumerate() {
            let near = sorted[i + 1..].iter().take_while(|(start, _, b)| b.buffer == a.buffer && start < end);
            for (_, _, b) in near.filter(|(_, _, b)| a.region.overlaps(&b.region)) {
                let in_place = |read: &Access, write: &Access| {
                    read.mode == Mode::Read && write.mode == Mode::Write && is_residual(read)
                };
                let harmless = !a.mode.writes() && !b.mode.writes();
                if harmless || (a.region == b.region && (in_place(a, b) || in_place(b, a))) {
                    continue;
                }
                let why = format!(
                    "touches {} and {} at once, one of them writing: only a residual may be its own output, whole",
                    named(plan, a),
                    named(plan, b)
                );
                return Err(at(plan, id, why));
            }
        }
    }
    Ok(())
}
