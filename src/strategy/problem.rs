//! What a strategy is asked to do.

use std::str::FromStr;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::spec::RopePairs;
use crate::mesh::Mesh;
use crate::shard::Shard;

/// How one sequence is computed on several ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// One rank.
    Single,
    /// AllGather of x as a ring under the projection, AllToAll of the output (OpenDiT).
    Fastseq,
    /// AllToAll of q, k, v and of the output (DeepSpeed-Ulysses, arXiv 2309.14509).
    Ulysses,
    /// Keys travel around a ring (Ring Attention, arXiv 2310.01889).
    Ring,
    /// Ulysses inside a group, ring between groups (USP, arXiv 2405.07719).
    Usp,
    /// Column- and row-parallel linears with sequence-parallel ends (arXiv 2205.05198).
    Megatron,
    /// AllGather of k and v.
    KvGather,
}

impl Strategy {
    /// All strategies, in the order of tables.
    pub const ALL: [Self; 7] =
        [Self::Single, Self::Fastseq, Self::Ulysses, Self::Ring, Self::Usp, Self::Megatron, Self::KvGather];

    /// Name in the command line, tables and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Fastseq => "fastseq",
            Self::Ulysses => "ulysses",
            Self::Ring => "ring",
            Self::Usp => "usp",
            Self::Megatron => "megatron",
            Self::KvGather => "kv-gather",
        }
    }

    /// True if the output has the bits of the one-rank run (R1): no sum is reordered.
    pub const fn keeps_bits(self, mesh: &Mesh) -> bool {
        match self {
            Self::Single | Self::Fastseq | Self::Ulysses | Self::KvGather => true,
            Self::Ring | Self::Usp => mesh.ring == 1,
            Self::Megatron => mesh.ring * mesh.ulysses == 1,
        }
    }

    /// True if it needs the layer's weights: it cannot start from q, k and v.
    pub const fn needs_weights(self) -> bool {
        matches!(self, Self::Fastseq | Self::Megatron)
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| Error::Unsupported(format!("unknown strategy \"{name}\": use {known} or auto")))
    }
}

/// Which way the chunks of an asynchronous ring AllGather take; same slots, same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// Each rank forwards to its neighbour what it received last.
    #[default]
    Forwarded,
    /// In step k each rank sends its own chunk to the rank k before it.
    Direct,
}

/// Choices that change no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Route of fastseq's ring.
    pub route: Route,
    /// One projection kernel that waits for its chunks inside, instead of one a chunk.
    pub gated: bool,
    /// Head groups of the ulysses pipeline, at least 1.
    pub head_groups: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { route: Route::Forwarded, gated: false, head_groups: 4 }
    }
}

/// One attention over a sharded sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionProblem {
    /// Storage type.
    pub dtype: Dtype,
    /// Samples of one replica.
    pub batch: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// How the tokens are cut.
    pub shard: Shard,
    /// Whether keys carry a mask.
    pub key_mask: bool,
    /// Whether samples have key lengths of their own, per segment.
    pub key_len: bool,
}

/// One attention layer, from x to the output projection, possibly with an MLP behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerProblem {
    /// Its attention; queries and keys are the same tokens.
    pub attention: AttentionProblem,
    /// Channels of x.
    pub hidden: usize,
    /// Whether the projection to q, k, v has a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub proj_bias: bool,
    /// Whether text has weights of its own.
    pub text_weights: bool,
    /// RMS norm of q and k: its eps.
    pub qk_norm: Option<f32>,
    /// Rotary embedding of the image's q and k.
    pub rope: Option<RopePairs>,
    /// Channels of an MLP (linear, tanh-GELU, linear) behind the output projection.
    pub mlp: Option<usize>,
}
