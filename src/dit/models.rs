//! Published models as tables of sizes: what benchmarks and predictions are asked about by name.
//!
//! A [`Model`] says what its denoiser costs and moves: its kinds of layers, channels, heads, and
//! the tokens of its usual output. [`Model::layer`] gives the [`LayerProblem`] of one layer, from
//! x to the MLP; [`Model::beside`] the kernels of that layer which are no part of the problem
//! (adaLN, gates, cross-attention to text): every rank runs them on its own rows, and nothing
//! moves for them. Patch embedding, final layer, text encoders and VAE are left out.
//!
//! It assumes what the sources say; each row names its own. Sizes that a source does not give are
//! marked in `source`. Test: `tests/models.rs`.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, KeySegment, Modulation, Norm,
    NormModulate, RopePairs,
};
use crate::shard::Shard;
use crate::strategy::{AttentionProblem, LayerProblem};

/// Over which tokens a layer attends, and how text takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attends {
    /// All image tokens; no text.
    Image,
    /// Text and image tokens in one attention; text has weights of its own, or shares the image's.
    Joint {
        /// Whether text has weights of its own.
        text_weights: bool,
    },
    /// All image tokens, then text by a cross-attention.
    ThenText,
    /// The tokens of one frame, then text by a cross-attention.
    FrameThenText,
    /// The tokens at one place of all frames, then text by a cross-attention. Where the places
    /// are split over the ranks, nothing moves.
    PlaceThenText,
}

/// Layers of a model that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// Name in tables.
    pub name: &'static str,
    /// How many of them one evaluation runs.
    pub count: usize,
    /// What they attend to.
    pub attends: Attends,
}

/// The denoiser of a published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Name in the command line.
    pub name: &'static str,
    /// Channels of a token.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Channels of the MLP.
    pub mlp: usize,
    /// Its layers, by kind.
    pub kinds: &'static [LayerKind],
    /// Image tokens of the usual output, all frames together.
    pub tokens: usize,
    /// Latent frames; 1 where attention does not tell frames apart.
    pub frames: usize,
    /// Text tokens.
    pub text_tokens: usize,
    /// Samples of one step: 2 under classifier-free guidance, 1 where guidance is distilled.
    pub batch: usize,
    /// Whether q and k are normalised.
    pub qk_norm: bool,
    /// Whether q and k of the image are rotated.
    pub rope: bool,
    /// Where the sizes come from.
    pub source: &'static str,
}

/// Sizes of one evaluation, of which [`Model::sizes`] gives the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Image tokens, all frames together.
    pub tokens: usize,
    /// Text tokens.
    pub text_tokens: usize,
    /// Samples.
    pub batch: usize,
    /// Storage type.
    pub dtype: Dtype,
    /// Whether joint text lies whole on every rank instead of being cut like the image.
    pub replicate_text: bool,
}

impl Model {
    /// The model of that name.
    ///
    /// # Errors
    /// An unknown name; lists the known ones.
    pub fn named(name: &str) -> Result<&'static Self> {
        MODELS.iter().find(|model| model.name == name).ok_or_else(|| {
            let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            Error::Unsupported(format!("unknown model \"{name}\": use {}", known.join(", ")))
        })
    }

    /// Layers of one evaluation.
    pub fn layers(&self) -> usize {
        self.kinds.iter().map(|kind| kind.count).sum()
    }

    /// The usual sizes, in bf16, with text cut like the image.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            tokens: self.tokens,
            text_tokens: self.text_tokens,
            batch: self.batch,
            dtype: Dtype::Bf16,
            replicate_text: false,
        }
    }

    /// The ranks over which one layer of `kind` is split: 1 where nothing moves.
    pub fn split(&self, kind: &LayerKind, ranks: usize) -> usize {
        if kind.attends == Attends::PlaceThenText { 1 } else { ranks }
    }

    /// One layer of `kind` with its tokens cut evenly over `ranks` ranks. Of a layer for which
    /// nothing moves it is what the rank with most tokens does, alone.
    ///
    /// # Errors
    /// Tokens that are no whole frames, or more ranks than tokens to cut.
    pub fn layer(&self, kind: &LayerKind, sizes: &Sizes, ranks: usize) -> Result<LayerProblem> {
        if !sizes.tokens.is_multiple_of(self.frames) || sizes.tokens == 0 {
            return Err(Error::Shape(format!(
                "{} tokens are not {} whole frames of {}: use a multiple of {}",
                sizes.tokens, self.frames, self.name, self.frames
            )));
        }
        let places = sizes.tokens / self.frames;
        let (batch, tokens) = match kind.attends {
            Attends::Image | Attends::Joint { .. } | Attends::ThenText => (sizes.batch, sizes.tokens),
            Attends::FrameThenText => (sizes.batch * self.frames, places),
            Attends::PlaceThenText => (sizes.batch * places.div_ceil(ranks.max(1)), self.frames),
        };
        let joint = if let Attends::Joint { text_weights } = kind.attends { Some(text_weights) } else { None };
        let text = if joint.is_some() { sizes.text_tokens } else { 0 };
        let split = self.split(kind, ranks);
        Ok(LayerProblem {
            attention: AttentionProblem {
                dtype: sizes.dtype,
                batch,
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                shard: Shard::even(split, tokens, tokens, text, sizes.replicate_text)?,
                key_mask: false,
                key_len: false,
            },
            hidden: self.hidden,
            qkv_bias: true,
            proj_bias: true,
            text_weights: joint == Some(true) && text > 0,
            qk_norm: self.qk_norm.then_some(1e-6),
            rope: self.rope.then_some(RopePairs::Interleaved),
            mlp: Some(self.mlp),
        })
    }

    /// The kernels of one layer of `kind` that its problem leaves out, on the rank of most rows.
    pub fn beside(&self, kind: &LayerKind, sizes: &Sizes, ranks: usize) -> Vec<Kernel> {
        let (dtype, batch, hidden) = (sizes.dtype, sizes.batch, self.hidden);
        let rows = sizes.tokens.div_ceil(ranks.max(1));
        let mut kernels = Vec::new();
        let mut stream = |rows: usize| {
            // Shift, scale and gate of attention and MLP.
            let modulation = Gemm::linear(dtype, batch, 1, hidden, 6 * hidden, true, Epilogue::None);
            kernels.extend([Kernel::Gemm(modulation), norm(dtype, batch, rows, hidden)]);
            kernels.extend([gate_norm(dtype, batch, rows, hidden), gate(dtype, batch, rows, hidden)]);
        };
        stream(rows);
        match kind.attends {
            Attends::Joint { .. } if sizes.text_tokens > 0 => {
                let split = if sizes.replicate_text { 1 } else { ranks.max(1) };
                stream(sizes.text_tokens.div_ceil(split));
            }
            Attends::ThenText | Attends::FrameThenText | Attends::PlaceThenText if sizes.text_tokens > 0 => {
                kernels.extend(self.cross(sizes, rows));
            }
            _ => {}
        }
        kernels
    }

    /// Cross-attention of `rows` image tokens to text, from q's projection to the output's.
    fn cross(&self, sizes: &Sizes, rows: usize) -> [Kernel; 4] {
        let (dtype, batch, text) = (sizes.dtype, sizes.batch, sizes.text_tokens);
        let (attended, keys) = (self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim);
        let linear = |rows: usize, k: usize, cols: usize| {
            Kernel::Gemm(Gemm::linear(dtype, batch, rows, k, cols, true, Epilogue::None))
        };
        let attention = Attention {
            dtype,
            batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            first_head: 0,
            first_kv_head: 0,
            group: self.heads / self.kv_heads,
            scale: 1.0,
            queries: vec![rows],
            keys: vec![KeySegment { len: text, base: 0, stream: 0 }],
            key_mask: false,
            key_len: false,
            carry_in: false,
            carry_out: false,
        };
        [
            linear(rows, self.hidden, attended),
            linear(text, self.hidden, keys),
            Kernel::Attention(attention),
            linear(rows, attended, self.hidden),
        ]
    }
}

fn norm(dtype: Dtype, batch: usize, rows: usize, hidden: usize) -> Kernel {
    let (norm, modulation) = (Norm::Layer, Modulation::PerSample);
    Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps: 1e-6, modulation })
}

fn gate_norm(dtype: Dtype, batch: usize, rows: usize, hidden: usize) -> Kernel {
    let (norm, modulation) = (Norm::Layer, Modulation::PerSample);
    Kernel::GateResidualNormModulate(GateResidualNormModulate {
        dtype,
        batch,
        rows,
        hidden,
        norm,
        eps: 1e-6,
        modulation,
    })
}

fn gate(dtype: Dtype, batch: usize, rows: usize, hidden: usize) -> Kernel {
    Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation: Modulation::PerSample })
}

const fn layers(name: &'static str, count: usize, attends: Attends) -> LayerKind {
    LayerKind { name, count, attends }
}

const DOUBLE: Attends = Attends::Joint { text_weights: true };
const SINGLE: Attends = Attends::Joint { text_weights: false };

/// A class-conditional DiT at 512 × 512 with patches of 2: 1,024 tokens.
const fn dit(name: &'static str, kinds: &'static [LayerKind], hidden: usize, heads: usize) -> Model {
    Model {
        name,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        mlp: 4 * hidden,
        kinds,
        tokens: 1024,
        frames: 1,
        text_tokens: 0,
        batch: 2,
        qk_norm: false,
        rope: false,
        source: "Peebles and Xie, arXiv 2212.09748, table 1; 512 × 512: 64² latent / 2",
    }
}

/// All models, in the order of tables.
pub const MODELS: &[Model] = &[
    dit("dit-s/2", &[layers("block", 12, Attends::Image)], 384, 6),
    dit("dit-b/2", &[layers("block", 12, Attends::Image)], 768, 12),
    dit("dit-l/2", &[layers("block", 24, Attends::Image)], 1024, 16),
    dit("dit-xl/2", &[layers("block", 28, Attends::Image)], 1152, 16),
    Model {
        name: "stdit3",
        hidden: 1152,
        heads: 16,
        kv_heads: 16,
        head_dim: 72,
        mlp: 4608,
        kinds: &[layers("spatial", 28, Attends::FrameThenText), layers("temporal", 28, Attends::PlaceThenText)],
        tokens: 30 * 3600,
        frames: 30,
        text_tokens: 300,
        batch: 2,
        qk_norm: true,
        rope: false,
        source: "Open-Sora STDiT3-XL/2, patch (1, 2, 2); 102 frames of 720 × 1280: 30 latent frames of 45·80",
    },
    Model {
        name: "cogvideox-2b",
        hidden: 1920,
        heads: 30,
        kv_heads: 30,
        head_dim: 64,
        mlp: 7680,
        kinds: &[layers("block", 30, SINGLE)],
        tokens: 17_550,
        frames: 1,
        text_tokens: 226,
        batch: 2,
        qk_norm: true,
        rope: false,
        source: "diffusers CogVideoX; 49 frames of 480 × 720: 13·30·45",
    },
    Model {
        name: "cogvideox-5b",
        hidden: 3072,
        heads: 48,
        kv_heads: 48,
        head_dim: 64,
        mlp: 12_288,
        kinds: &[layers("block", 42, SINGLE)],
        tokens: 17_550,
        frames: 1,
        text_tokens: 226,
        batch: 2,
        qk_norm: true,
        rope: true,
        source: "diffusers CogVideoX conversion script; 49 frames of 480 × 720: 13·30·45",
    },
    Model {
        name: "cogvideox1.5-5b",
        hidden: 3072,
        heads: 48,
        kv_heads: 48,
        head_dim: 64,
        mlp: 12_288,
        kinds: &[layers("block", 42, SINGLE)],
        tokens: 11 * 48 * 85,
        frames: 1,
        text_tokens: 226,
        batch: 2,
        qk_norm: true,
        rope: true,
        source: "CogVideoX1.5, temporal patch 2; 81 frames of 1360 × 768: 11·48·85 (161 frames: 21·48·85)",
    },
    Model {
        name: "hunyuanvideo",
        hidden: 3072,
        heads: 24,
        kv_heads: 24,
        head_dim: 128,
        mlp: 12_288,
        kinds: &[layers("double", 20, DOUBLE), layers("single", 40, SINGLE)],
        tokens: 118_800,
        frames: 1,
        text_tokens: 256,
        batch: 1,
        qk_norm: true,
        rope: true,
        source: "Tencent HunyuanVideo; 129 frames of 720 × 1280: 33·45·80; guidance distilled",
    },
    Model {
        name: "wan2.1-1.3b",
        hidden: 1536,
        heads: 12,
        kv_heads: 12,
        head_dim: 128,
        mlp: 8960,
        kinds: &[layers("block", 30, Attends::ThenText)],
        tokens: 32_760,
        frames: 1,
        text_tokens: 512,
        batch: 2,
        qk_norm: true,
        rope: true,
        source: "Wan-Video Wan2.1; 81 frames of 480 × 832: 21·30·52",
    },
    Model {
        name: "wan2.1-14b",
        hidden: 5120,
        heads: 40,
        kv_heads: 40,
        head_dim: 128,
        mlp: 13_824,
        kinds: &[layers("block", 40, Attends::ThenText)],
        tokens: 75_600,
        frames: 1,
        text_tokens: 512,
        batch: 2,
        qk_norm: true,
        rope: true,
        source: "Wan-Video Wan2.1; 81 frames of 720 × 1280: 21·45·80",
    },
    Model {
        name: "flux",
        hidden: 3072,
        heads: 24,
        kv_heads: 24,
        head_dim: 128,
        mlp: 12_288,
        kinds: &[layers("double", 19, DOUBLE), layers("single", 38, SINGLE)],
        tokens: 4096,
        frames: 1,
        text_tokens: 512,
        batch: 1,
        qk_norm: true,
        rope: true,
        source: "Flux.1-dev; 1024 × 1024: 64²; guidance distilled",
    },
    Model {
        name: "sd3-medium",
        hidden: 1536,
        heads: 24,
        kv_heads: 24,
        head_dim: 64,
        mlp: 6144,
        kinds: &[layers("block", 24, DOUBLE)],
        tokens: 4096,
        frames: 1,
        text_tokens: 333,
        batch: 2,
        qk_norm: false,
        rope: false,
        source: "Stable Diffusion 3 medium, public configuration; 1024 × 1024: 64²",
    },
];
