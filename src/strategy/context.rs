//! What every strategy has at hand while it writes one rank's plan.

use std::ops::Range;

use super::heads::HeadSlice;
use super::problem::{AttentionProblem, Options};
use crate::dtype::Dtype;
use crate::kernel::spec::{Kernel, Pack};
use crate::mesh::Mesh;
use crate::plan::{Builder, CommKind, Direction, Placement, Role, StreamId, View};
use crate::shard::{IndexMap, Piece};

/// The image rows and the text rows of a rank, in one layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    pub(crate) image: View,
    pub(crate) text: Option<View>,
}

/// A contiguous stretch of a flat buffer that travels as one message, and the tensors in it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) whole: View,
    pub(crate) parts: Vec<View>,
}

/// A builder with the problem's sizes, this rank's place and the streams.
pub(crate) struct Context<'a> {
    pub(crate) b: Builder,
    pub(crate) problem: &'a AttentionProblem,
    pub(crate) options: Options,
    pub(crate) mesh: Mesh,
    /// Index of this rank among the ranks of its sequence.
    pub(crate) me: usize,
    /// Global ranks of the sequence.
    pub(crate) ranks: Vec<usize>,
    pub(crate) compute: StreamId,
    pub(crate) comm: StreamId,
    /// Prefix of all labels: `block3/`.
    pub(crate) scope: String,
    /// Whether the log-sum-exp is an output of the plan.
    pub(crate) lse_output: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(problem: &'a AttentionProblem, mesh: Mesh, rank: usize, options: Options) -> Self {
        let mut b = Builder::new(rank, mesh.world());
        let compute = b.stream("compute");
        let comm = b.stream("comm");
        let ranks = mesh.sequence_group(rank);
        let me = rank % mesh.sequence();
        Self { b, problem, options, mesh, me, ranks, compute, comm, scope: String::new(), lse_output: false }
    }

    pub(crate) fn label(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// Query heads that read one key head.
    pub(crate) fn group(&self) -> usize {
        self.problem.heads / self.problem.kv_heads
    }

    /// The heads of share `index` of `parts`.
    pub(crate) fn heads(&self, parts: usize, index: usize) -> HeadSlice {
        HeadSlice::share(self.problem.heads, self.group(), parts, index)
    }

    /// Image query tokens of a rank of the sequence.
    pub(crate) fn image_map(&self, s: usize) -> &'a IndexMap {
        self.problem.shard.image.map(s)
    }

    /// Image key tokens of a rank of the sequence.
    pub(crate) fn key_map(&self, s: usize) -> &'a IndexMap {
        self.problem.shard.keys.map(s)
    }

    /// Split text tokens of a rank of the sequence; none if text is replicated.
    pub(crate) fn text_map(&self, s: usize) -> IndexMap {
        let text = &self.problem.shard.text;
        if text.is_replicated() { IndexMap::default() } else { text.map(s) }
    }

    /// Tokens of replicated text, 0 without.
    pub(crate) fn replicated_text(&self) -> usize {
        let text = &self.problem.shard.text;
        if text.is_replicated() { text.len() } else { 0 }
    }

    /// A bound buffer that holds the part of a global tensor that `index` says. With `sampled`,
    /// dimension 0 counts samples, of which every replica has its own.
    pub(crate) fn bound(
        &mut self,
        role: Role,
        tensor: &str,
        dtype: Dtype,
        dims: [usize; 4],
        index: [Option<IndexMap>; 4],
        sampled: bool,
    ) -> View {
        self.bound_as(tensor, role, tensor, dtype, dims, index, sampled)
    }

    /// [`Context::bound`] under a buffer name of its own: several buffers may hold parts of one
    /// global tensor.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn bound_as(
        &mut self,
        name: &str,
        role: Role,
        tensor: &str,
        dtype: Dtype,
        dims: [usize; 4],
        mut index: [Option<IndexMap>; 4],
        sampled: bool,
    ) -> View {
        let replicas = self.mesh.data * self.mesh.cfg;
        let mut global = dims;
        if sampled && replicas > 1 {
            let replica = self.b.rank() / self.mesh.sequence();
            global[0] *= replicas;
            index[0] = Some(IndexMap::contiguous(replica * dims[0]..(replica + 1) * dims[0]));
        }
        let local = std::array::from_fn(|i| index[i].as_ref().map_or(global[i], IndexMap::len));
        let placement = Placement { tensor: tensor.into(), dims: global, index };
        self.b.buffer(name, role, dtype, local, Some(placement))
    }

    /// An input or output of image or text rows `[B, tokens, heads, D]`, cut by `map`.
    pub(crate) fn rows(
        &mut self,
        role: Role,
        tensor: &str,
        tokens: usize,
        map: &IndexMap,
        heads: usize,
        width: usize,
    ) -> View {
        let dims = [self.problem.batch, tokens, heads, width];
        self.bound(role, tensor, self.problem.dtype, dims, [None, Some(map.clone()), None, None], true)
    }

    /// A temporary of the problem's dtype.
    pub(crate) fn temp(&mut self, name: &str, shape: [usize; 4]) -> View {
        let name = self.label(name);
        self.b.temp(name, self.problem.dtype, shape)
    }

    /// One flat buffer cut into slots, each with tensors of the given shapes one after the other.
    pub(crate) fn slots(&mut self, name: &str, dtype: Dtype, shapes: &[Vec<[usize; 4]>]) -> Vec<Slot> {
        let elems = |shape: &[usize; 4]| shape.iter().product::<usize>();
        let total: usize = shapes.iter().flatten().map(elems).sum();
        let name = self.label(name);
        let flat = self.b.temp(name, dtype, [1, 1, 1, total]);
        let mut next = 0;
        let cut = |shapes: &Vec<[usize; 4]>| {
            let start = next;
            let part = |shape: &[usize; 4]| {
                next += elems(shape);
                flat.cols(next - elems(shape)..next).reshape(*shape)
            };
            let parts = shapes.iter().map(part).collect();
            Slot { whole: flat.cols(start..next), parts }
        };
        shapes.iter().map(cut).collect()
    }

    /// One kernel of copies; empty ones and an empty kernel are left out.
    pub(crate) fn pack(&mut self, label: &str, src_dtype: Dtype, dst_dtype: Dtype, copies: &[(View, Vec<View>)]) {
        let kept: Vec<_> = copies.iter().filter(|(src, _)| !src.is_empty()).collect();
        if kept.is_empty() {
            return;
        }
        let spec = Pack { src_dtype, dst_dtype, copies: kept.iter().map(|(src, _)| src.shape).collect() };
        let operands: Vec<Vec<View>> = kept.iter().flat_map(|(src, dst)| [vec![*src], dst.clone()]).collect();
        let label = self.label(label);
        self.b.kernel(self.compute, label, Kernel::Pack(spec), &operands);
    }

    /// One communication on the communication stream among the given ranks of the sequence.
    pub(crate) fn communicate(
        &mut self,
        label: &str,
        kind: CommKind,
        members: &[usize],
        dtype: Dtype,
        transfers: &[(Direction, usize, View)],
    ) -> crate::plan::OpId {
        let group: Vec<usize> = members.iter().map(|&s| self.ranks[s]).collect();
        let transfers: Vec<_> =
            transfers.iter().map(|&(direction, s, view)| (direction, self.ranks[s], view)).collect();
        let tag = self.b.tag();
        let label = self.label(label);
        self.b.comm(self.comm, label, kind, tag, &group, dtype, &transfers)
    }
}

/// The rows of `whole` at which the rows of a rank stand, in the rank's order.
pub(crate) fn rows_at(whole: View, pieces: &[Piece]) -> Vec<View> {
    pieces.iter().map(|p| whole.rows(p.position..p.position + p.len)).collect()
}

/// Where the rows of `map` stand in `whole`, which holds them all by construction of the shard.
pub(crate) fn pieces(map: &IndexMap, whole: &IndexMap) -> Vec<Piece> {
    map.positions_in(whole).unwrap_or_default()
}

/// True if the local rows of `map` are in global order.
pub(crate) fn ascends(map: &IndexMap) -> bool {
    map.runs().windows(2).all(|w| w[0].start < w[1].start)
}

/// The indices `range` of one dimension.
pub(crate) fn part(range: Range<usize>) -> Option<IndexMap> {
    Some(IndexMap::contiguous(range))
}
