//! One denoiser pass as a plan: embedding, conditioning, blocks, final layer.
//!
//! Every gate, residual, norm and modulation between two linears is one fused kernel, and the
//! modulated x is written where the next strategy wants it: into fastseq's own slot.

use super::config::Config;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::spec::{
    ClassEmbed, Epilogue, GateResidualNormModulate, Kernel, Modulation, Norm, NormModulate, TimestepEmbed,
};
use crate::mesh::Mesh;
use crate::plan::{Plan, Role, View};
use crate::shard::{Shard, Split, TextShard};
use crate::strategy::context::{Context, Tokens};
use crate::strategy::layer::{attention_layer, linear, linear_with, mlp};
use crate::strategy::project::QkvWeights;
use crate::strategy::weights::{LayerWeights, Linear, Weights};
use crate::strategy::{AttentionProblem, KeyLimits, Options, Strategy, validate};

const EPS: f32 = 1e-6;

/// A denoiser pass of a batch over ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct DitProblem {
    /// The model.
    pub config: Config,
    /// Type of weights, activations and arithmetic's storage.
    pub dtype: Dtype,
    /// Samples of one replica.
    pub batch: usize,
    /// How the image tokens are cut.
    pub image: Split,
}

/// The plans of all ranks.
///
/// Global tensors: inputs `patches [B, N, 1, C·p·p]`, `timestep [B, 1, 1, 1]` f32,
/// `class [B, 1, 1, 1]` i32 and the checkpoint's tensors under their public names, matrices as
/// `[1, rows, 1, cols]`, vectors as `[1, 1, 1, n]`, `pos_embed [1, N, 1, hidden]`; output
/// `out [B, N, 1, p·p·Cout]`. With replicas in the mesh B counts the samples of all of them.
///
/// # Errors
/// Sizes, mesh or strategy that contradict each other.
pub fn plan(problem: &DitProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<Vec<Plan>> {
    (0..mesh.world()).map(|rank| plan_rank(problem, strategy, mesh, options, rank)).collect()
}

/// [`plan`] for one rank.
///
/// # Errors
/// As [`plan`].
pub fn plan_rank(
    problem: &DitProblem,
    strategy: Strategy,
    mesh: &Mesh,
    options: &Options,
    rank: usize,
) -> Result<Plan> {
    problem.config.validate()?;
    let attention = problem.attention()?;
    validate(&attention, strategy, mesh, options)?;
    let cx = Context::new(&attention, *mesh, rank, *options);
    let mut pass = Pass { cx, config: &problem.config, strategy };
    pass.emit();
    Ok(pass.cx.b.finish())
}

impl DitProblem {
    /// The attention of every block.
    ///
    /// # Errors
    /// A cut that gives tokens twice or not at all.
    pub fn attention(&self) -> Result<AttentionProblem> {
        let Config { heads, .. } = self.config;
        Ok(AttentionProblem {
            dtype: self.dtype,
            batch: self.batch,
            heads,
            kv_heads: heads,
            head_dim: self.config.head_dim(),
            shard: Shard::new(self.image.clone(), TextShard::None)?,
            key_mask: false,
            key_len: false,
        })
    }
}

struct Pass<'a> {
    cx: Context<'a>,
    config: &'a Config,
    strategy: Strategy,
}

impl Pass<'_> {
    fn emit(&mut self) {
        let Config { hidden, patch, channels, out_channels, depth, .. } = *self.config;
        let tokens = self.config.tokens();
        let map = self.cx.image_map(self.cx.me).clone();
        let patches = self.cx.rows(Role::Input, "patches", tokens, &map, 1, channels * patch * patch);
        let out = self.cx.rows(Role::Output, "out", tokens, &map, 1, out_channels * patch * patch);
        let position = self.cx.bound(
            Role::Input,
            "pos_embed",
            self.cx.problem.dtype,
            [1, tokens, 1, hidden],
            [None, Some(map), None, None],
            false,
        );
        let condition = self.condition();

        let rows = [self.cx.problem.batch, patches.shape[1], 1, hidden];
        let x = self.cx.temp("x", rows);
        let embed = self.linear_input("x_embedder.proj", hidden, channels * patch * patch);
        linear_with(&mut self.cx, "patch embed", patches, &embed, Epilogue::Residual, &[position], x);

        let mut vectors = self.modulation("blocks.0.adaLN_modulation.1", "block0/", 6, condition);
        let mut y = self.norm_modulate(x, vectors[0], vectors[1]);
        for i in 0..depth {
            self.cx.scope = format!("block{i}/");
            let weights = self.block_weights(i);
            let attended = self.cx.temp("attended", rows);
            let limits = KeyLimits { mask: None, len: None };
            let tokens = |image| Tokens { image, text: None };
            attention_layer(&mut self.cx, self.strategy, &tokens(y), &weights, limits, &tokens(attended));
            let y_mlp = self.gate_norm_modulate("attention", x, attended, [vectors[2], vectors[3], vectors[4]]);
            let branch = self.cx.temp("mlp out", rows);
            mlp(&mut self.cx, self.strategy, &tokens(y_mlp), &weights, &tokens(branch));
            let gate = vectors[5];
            vectors = if i + 1 < depth {
                self.modulation(
                    &format!("blocks.{}.adaLN_modulation.1", i + 1),
                    &format!("block{}/", i + 1),
                    6,
                    condition,
                )
            } else {
                self.modulation("final_layer.adaLN_modulation.1", "final/", 2, condition)
            };
            y = self.gate_norm_modulate("mlp", x, branch, [gate, vectors[0], vectors[1]]);
        }
        self.cx.scope = "final/".into();
        let last = self.linear_input("final_layer.linear", out_channels * patch * patch, hidden);
        linear(&mut self.cx, "linear", y, &last, Epilogue::None, out);
        self.cx.scope.clear();
    }

    /// silu(timestep embedding + class embedding), `[B, 1, 1, C]`; small, so every rank computes
    /// it.
    fn condition(&mut self) -> View {
        let Config { hidden, frequencies, classes, .. } = *self.config;
        let (dtype, batch) = (self.cx.problem.dtype, self.cx.problem.batch);
        let scalar = |dims0: usize| [dims0, 1, 1, 1];
        let none = || [None, None, None, None];
        let timestep = self.cx.bound(Role::Input, "timestep", Dtype::F32, scalar(batch), none(), true);
        let class = self.cx.bound(Role::Input, "class", Dtype::I32, scalar(batch), none(), true);
        let table_name = "y_embedder.embedding_table.weight";
        let table = self.cx.bound(Role::Input, table_name, dtype, [1, classes + 1, 1, hidden], none(), false);
        let compute = self.cx.compute;
        let frequency = self.cx.temp("timestep frequencies", [batch, 1, 1, frequencies]);
        let spec = TimestepEmbed { dtype, batch, dim: frequencies };
        self.cx.b.kernel(compute, "timestep embed", Kernel::TimestepEmbed(spec), &[vec![timestep], vec![frequency]]);
        let first = self.linear_input("t_embedder.mlp.0", hidden, frequencies);
        let second = self.linear_input("t_embedder.mlp.2", hidden, hidden);
        let inner = self.cx.temp("timestep inner", [batch, 1, 1, hidden]);
        let embedded = self.cx.temp("timestep embedding", [batch, 1, 1, hidden]);
        linear(&mut self.cx, "timestep mlp 0", frequency, &first, Epilogue::Silu, inner);
        linear(&mut self.cx, "timestep mlp 2", inner, &second, Epilogue::None, embedded);
        let condition = self.cx.temp("condition", [batch, 1, 1, hidden]);
        let spec = ClassEmbed { dtype, batch, classes: classes + 1, hidden };
        let operands = [vec![embedded], vec![table], vec![class], vec![condition]];
        self.cx.b.kernel(compute, "class embed", Kernel::ClassEmbed(spec), &operands);
        condition
    }

    /// The `count` modulation vectors `[B, 1, 1, C]` of a block.
    fn modulation(&mut self, name: &str, scope: &str, count: usize, condition: View) -> Vec<View> {
        let hidden = self.config.hidden;
        let weights = self.linear_input(name, count * hidden, hidden);
        let outer = std::mem::replace(&mut self.cx.scope, scope.into());
        let vectors = self.cx.temp("modulation", [self.cx.problem.batch, 1, 1, count * hidden]);
        linear(&mut self.cx, "modulation", condition, &weights, Epilogue::None, vectors);
        self.cx.scope = outer;
        (0..count).map(|j| vectors.cols(j * hidden..(j + 1) * hidden)).collect()
    }

    fn norm_modulate(&mut self, x: View, shift: View, scale: View) -> View {
        let [batch, rows, _, hidden] = x.shape;
        let y = self.cx.temp("y", x.shape);
        let (dtype, modulation) = (self.cx.problem.dtype, Modulation::PerSample);
        let spec = NormModulate { dtype, batch, rows, hidden, norm: Norm::Layer, eps: EPS, modulation };
        let operands = [vec![x], vec![y], vec![shift], vec![scale]];
        self.cx.b.kernel(self.cx.compute, "norm+modulate", Kernel::NormModulate(spec), &operands);
        y
    }

    fn gate_norm_modulate(&mut self, after: &str, x: View, branch: View, vectors: [View; 3]) -> View {
        let [batch, rows, _, hidden] = x.shape;
        let y = self.cx.temp(&format!("y after {after}"), x.shape);
        let (dtype, modulation) = (self.cx.problem.dtype, Modulation::PerSample);
        let spec = GateResidualNormModulate { dtype, batch, rows, hidden, norm: Norm::Layer, eps: EPS, modulation };
        let [gate, shift, scale] = vectors.map(|vector| vec![vector]);
        let operands = [vec![x], vec![branch], vec![x], vec![y], gate, shift, scale];
        let label = self.cx.label(&format!("gate+norm+modulate after {after}"));
        self.cx.b.kernel(self.cx.compute, label, Kernel::GateResidualNormModulate(spec), &operands);
        y
    }

    fn linear_input(&mut self, name: &str, cols: usize, k: usize) -> Linear {
        let dtype = self.cx.problem.dtype;
        let mut input = |part: &str, dims| {
            self.cx.bound(Role::Input, &format!("{name}.{part}"), dtype, dims, [None, None, None, None], false)
        };
        Linear { weight: input("weight", [1, cols, 1, k]), bias: Some(input("bias", [1, 1, 1, cols])) }
    }

    fn block_weights(&mut self, i: usize) -> Weights {
        let Config { hidden, mlp, .. } = *self.config;
        let name = |part: &str| format!("blocks.{i}.{part}");
        let qkv = self.linear_input(&name("attn.qkv"), 3 * hidden, hidden);
        let proj = self.linear_input(&name("attn.proj"), hidden, hidden);
        let fc1 = self.linear_input(&name("mlp.fc1"), mlp, hidden);
        let fc2 = self.linear_input(&name("mlp.fc2"), hidden, mlp);
        let qkv = QkvWeights { weight: qkv.weight, bias: qkv.bias, norm: None, rope: None };
        Weights { image: LayerWeights { qkv, proj, mlp: Some((fc1, fc2)) }, text: None }
    }
}
