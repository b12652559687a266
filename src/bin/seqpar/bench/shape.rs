//! Sizes from a model's name and flags.

use seqpar::dit::models::{Model, Sizes};
use seqpar::dtype::Dtype;
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, LayerProblem};

use super::args::ShapeArgs;
use crate::args::Text;
use crate::fault::{Fault, Result};

/// A layer whose tokens and ranks are still open.
pub(super) struct Shape {
    /// Title of rows and reports.
    pub(super) name: String,
    tokens: Vec<usize>,
    dtype: Dtype,
    model: Option<&'static Model>,
    batch: usize,
    text_tokens: usize,
    replicate_text: bool,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden: usize,
}

impl Shape {
    pub(super) fn new(args: &ShapeArgs) -> Result<Self> {
        let model = args.model.as_deref().map(Model::named).transpose()?;
        let missing = |flag: &str| Fault::Usage(format!("no {flag}: give it, or name a --model"));
        let heads = args.heads.or(model.map(|m| m.heads)).ok_or_else(|| missing("--heads"))?;
        let head_dim = args.head_dim.or(model.map(|m| m.head_dim)).ok_or_else(|| missing("--head-dim"))?;
        let kv_heads = args.kv_heads.or(model.filter(|_| args.heads.is_none()).map(|m| m.kv_heads)).unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(Fault::Usage(format!("{heads} heads are no multiple of {kv_heads} key heads: make them one")));
        }
        let tokens = match (&args.tokens, model) {
            (Some(series), _) => series.0.clone(),
            (None, Some(model)) => vec![model.tokens],
            (None, None) => return Err(missing("--tokens")),
        };
        let changed = args.heads.is_some() || args.head_dim.is_some();
        let hidden = args.hidden.or(model.filter(|_| !changed).map(|m| m.hidden));
        let hidden = match hidden.map_or_else(|| heads.checked_mul(head_dim), Some) {
            Some(hidden) if hidden <= 1 << 20 => hidden,
            _ => return Err(Fault::Usage("more than 1048576 channels: lower --heads, --head-dim or --hidden".into())),
        };
        let name = model.map_or_else(|| format!("{heads} x {head_dim}"), |model| model.name.to_string());
        Ok(Self {
            name,
            tokens,
            dtype: args.dtype.unwrap_or(if model.is_some() { Dtype::Bf16 } else { Dtype::F32 }),
            model,
            batch: args.batch.or(model.map(|m| m.batch)).unwrap_or(1),
            text_tokens: args.text_tokens.or(model.map(|m| m.text_tokens)).unwrap_or(0),
            replicate_text: args.text == Text::Replicate,
            heads,
            kv_heads,
            head_dim,
            hidden,
        })
    }

    /// `stdit3 spatial, bf16, batch 2, 16 heads of 72, hidden 1152, 300 text tokens`.
    pub(super) fn describe(&self) -> String {
        let kind = self
            .model
            .filter(|model| model.kinds.len() > 1)
            .map_or(String::new(), |model| format!(" ({} layer)", model.kinds[0].name));
        let text = if self.text_tokens > 0 { format!(", {} text tokens", self.text_tokens) } else { String::new() };
        format!(
            "{}{kind}, {}, batch {}, {} heads of {}, hidden {}{text}",
            self.name, self.dtype, self.batch, self.heads, self.head_dim, self.hidden
        )
    }

    /// Query and key heads.
    pub(super) fn heads(&self) -> (usize, usize) {
        (self.heads, self.kv_heads)
    }

    /// The layer of each token count, so that no size is refused after others were measured.
    pub(super) fn layers(&self, ranks: usize) -> Result<Vec<(usize, LayerProblem)>> {
        self.tokens.iter().map(|&tokens| Ok((tokens, self.layer(tokens, ranks)?))).collect()
    }

    /// The layer with `tokens` image tokens over `ranks` ranks; of a model with several kinds of
    /// layers the first.
    fn layer(&self, tokens: usize, ranks: usize) -> Result<LayerProblem> {
        let Self { batch, text_tokens, replicate_text, heads, kv_heads, head_dim, hidden, dtype, .. } = *self;
        let problem = match self.model {
            Some(model) => {
                let sizes = Sizes { tokens, text_tokens, batch, dtype, replicate_text };
                let problem = model.layer(&model.kinds[0], &sizes, ranks)?;
                let attention = AttentionProblem { heads, kv_heads, head_dim, ..problem.attention };
                let mlp = if hidden == model.hidden { problem.mlp } else { Some(4 * hidden) };
                LayerProblem { attention, hidden, mlp, ..problem }
            }
            None => LayerProblem {
                attention: AttentionProblem {
                    dtype,
                    batch,
                    heads,
                    kv_heads,
                    head_dim,
                    shard: Shard::even(ranks, tokens, tokens, text_tokens, replicate_text)?,
                    key_mask: false,
                    key_len: false,
                },
                hidden,
                qkv_bias: true,
                proj_bias: true,
                text_weights: false,
                qk_norm: None,
                rope: None,
                mlp: Some(4 * hidden),
            },
        };
        let rows = (tokens + text_tokens).checked_mul(problem.attention.batch);
        let widest = problem.mlp.unwrap_or(0).max(3 * hidden).max((heads + 2 * kv_heads) * head_dim);
        match rows.and_then(|rows| rows.max(widest).checked_mul(widest)) {
            Some(elems) if elems <= u32::MAX as usize => Ok(problem),
            _ => {
                let why = format!("{tokens} tokens: a tensor of this layer would have more than 4294967295 elements");
                Err(Fault::Usage(format!("{why}; lower --tokens, --batch or --hidden")))
            }
        }
    }
}
