//! Builds a plan: buffers, views of them, ops in issue order.
//!
//! Assumes that its caller is a strategy: it checks what a strategy can get wrong (an operand
//! whose shape is not the kernel's) when the plan is checked, not here, so that a strategy reads
//! like the algorithm. Empty views are dropped: a rank without a head or a text token needs no
//! special case.

use std::collections::HashMap;
use std::ops::Range;

use super::{
    Access, Buffer, BufferId, Comm, CommKind, Direction, Op, OpId, OpKind, Placement, Plan, Region, Role, StreamId,
    Tag, Transfer,
};
use crate::dtype::Dtype;
use crate::kernel::spec::{Kernel, Mode};

/// A box of a buffer, possibly under another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Which buffer.
    pub buffer: BufferId,
    /// Which elements.
    pub region: Region,
    /// The shape under which an op sees them.
    pub shape: [usize; 4],
    /// The transfer that fills the region and that the reading op itself waits for.
    pub gate: Option<OpId>,
}

impl View {
    /// Elements `range` along `dim`. Slice before you reshape.
    pub fn slice(self, dim: usize, range: Range<usize>) -> Self {
        let region = self.region.slice(dim, range);
        Self { region, shape: region.extents(), ..self }
    }

    /// The samples `range`.
    pub fn samples(self, range: Range<usize>) -> Self {
        self.slice(0, range)
    }

    /// The rows `range`.
    pub fn rows(self, range: Range<usize>) -> Self {
        self.slice(1, range)
    }

    /// The heads `range`.
    pub fn heads(self, range: Range<usize>) -> Self {
        self.slice(2, range)
    }

    /// The columns `range`.
    pub fn cols(self, range: Range<usize>) -> Self {
        self.slice(3, range)
    }

    /// The same elements under another shape of as many; the region must be contiguous (checked
    /// with the plan).
    pub fn reshape(self, shape: [usize; 4]) -> Self {
        Self { shape, ..self }
    }

    /// The same view, whose reader waits inside itself for the transfer `op`.
    pub fn gated(self, op: OpId) -> Self {
        Self { gate: Some(op), ..self }
    }

    /// True without an element.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }
}

/// Builds the plan of one rank.
pub struct Builder {
    plan: Plan,
    label_ids: HashMap<String, u32>,
    group_ids: HashMap<Vec<u32>, u32>,
    next_tag: u32,
}

impl Builder {
    /// An empty plan for `rank` of `world`.
    pub fn new(rank: usize, world: usize) -> Self {
        let plan = Plan {
            rank: rank as u32,
            world: world as u32,
            streams: Vec::new(),
            buffers: Vec::new(),
            ops: Vec::new(),
            accesses: Vec::new(),
            labels: Vec::new(),
            kernels: Vec::new(),
            comms: Vec::new(),
            groups: Vec::new(),
            externals: Vec::new(),
        };
        Self { plan, label_ids: HashMap::new(), group_ids: HashMap::new(), next_tag: 0 }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.plan.rank as usize
    }

    /// The stream of that name, made at its first use.
    pub fn stream(&mut self, name: &str) -> StreamId {
        let index = self.plan.streams.iter().position(|s| s == name).unwrap_or_else(|| {
            self.plan.streams.push(name.to_string());
            self.plan.streams.len() - 1
        });
        StreamId(index as u16)
    }

    /// A new buffer.
    pub fn buffer(
        &mut self,
        name: impl Into<String>,
        role: Role,
        dtype: Dtype,
        dims: [usize; 4],
        placement: Option<Placement>,
    ) -> View {
        let id = BufferId(self.plan.buffers.len() as u32);
        self.plan.buffers.push(Buffer { name: name.into(), role, dtype, dims, placement });
        View { buffer: id, region: Region::whole(dims), shape: dims, gate: None }
    }

    /// A new temporary.
    pub fn temp(&mut self, name: impl Into<String>, dtype: Dtype, dims: [usize; 4]) -> View {
        self.buffer(name, Role::Temp, dtype, dims, None)
    }

    /// Element type of a view's buffer.
    pub fn dtype(&self, view: &View) -> Dtype {
        self.plan.buffer(view.buffer).dtype
    }

    /// Launches a kernel. `operands[i]` are the views of its `i`-th operand, in row order.
    pub fn kernel(
        &mut self,
        stream: StreamId,
        label: impl Into<String>,
        kernel: Kernel,
        operands: &[Vec<View>],
    ) -> OpId {
        let modes: Vec<Mode> = kernel.operands().iter().map(|o| o.mode).collect();
        let id = self.plan.kernels.len() as u32;
        self.plan.kernels.push(kernel);
        let accesses = operands.iter().enumerate().flat_map(|(i, views)| {
            let mode = modes.get(i).copied().unwrap_or(Mode::Read);
            views.iter().map(move |view| (*view, mode, i as u16))
        });
        self.push(OpKind::Kernel(id), stream, label.into(), accesses.collect())
    }

    /// A tag, the next in order: every rank of a world asks for the same tags in the same order.
    pub fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        Tag(self.next_tag - 1)
    }

    /// Runs a communication among `group`. Empty transfers are dropped on both sides.
    #[allow(clippy::too_many_arguments)]
    pub fn comm(
        &mut self,
        stream: StreamId,
        label: impl Into<String>,
        kind: CommKind,
        tag: Tag,
        group: &[usize],
        dtype: Dtype,
        transfers: &[(Direction, usize, View)],
    ) -> OpId {
        let group: Vec<u32> = group.iter().map(|&rank| rank as u32).collect();
        let next = self.plan.groups.len() as u32;
        let group = *self.group_ids.entry(group.clone()).or_insert_with(|| {
            self.plan.groups.push(group);
            next
        });
        let kept: Vec<_> = transfers.iter().filter(|(_, _, view)| !view.is_empty()).collect();
        let accesses = kept.iter().enumerate().map(|(i, (direction, _, view))| {
            let mode = if *direction == Direction::Send { Mode::Read } else { Mode::Write };
            (*view, mode, i as u16)
        });
        let accesses = accesses.collect();
        let transfers =
            kept.iter().map(|(direction, peer, _)| Transfer { peer: *peer as u32, direction: *direction }).collect();
        let id = self.plan.comms.len() as u32;
        self.plan.comms.push(Comm { kind, tag, group, dtype, transfers });
        self.push(OpKind::Comm(id), stream, label.into(), accesses)
    }

    /// Copies `src` to `dst`, of equal shape and dtype.
    pub fn copy(&mut self, stream: StreamId, label: impl Into<String>, src: View, dst: View) -> OpId {
        self.push(OpKind::Copy, stream, label.into(), vec![(src, Mode::Read, 0), (dst, Mode::Write, 1)])
    }

    /// Calls an op of the embedding framework that touches the given views.
    pub fn external(&mut self, stream: StreamId, name: impl Into<String>, views: &[(View, Mode)]) -> OpId {
        let name = name.into();
        let id = self.plan.externals.len() as u32;
        self.plan.externals.push(name.clone());
        let accesses = views.iter().enumerate().map(|(i, (view, mode))| (*view, *mode, i as u16)).collect();
        self.push(OpKind::External(id), stream, name, accesses)
    }

    /// A mark in the trace.
    pub fn mark(&mut self, stream: StreamId, label: impl Into<String>) -> OpId {
        self.push(OpKind::Mark, stream, label.into(), Vec::new())
    }

    /// The plan.
    pub fn finish(self) -> Plan {
        self.plan
    }

    fn push(&mut self, kind: OpKind, stream: StreamId, label: String, accesses: Vec<(View, Mode, u16)>) -> OpId {
        let next = self.plan.labels.len() as u32;
        let label = *self.label_ids.entry(label.clone()).or_insert_with(|| {
            self.plan.labels.push(label);
            next
        });
        let first_access = self.plan.accesses.len() as u32;
        self.plan.accesses.extend(accesses.into_iter().filter(|(view, ..)| !view.is_empty()).map(
            |(view, mode, operand)| Access {
                buffer: view.buffer,
                mode,
                operand,
                gate: view.gate,
                region: view.region,
                shape: view.shape,
            },
        ));
        let access_count = self.plan.accesses.len() as u32 - first_access;
        self.plan.ops.push(Op { kind, stream, label, first_access, access_count });
        OpId(self.plan.ops.len() as u32 - 1)
    }
}
