//! `seqpar attention`: q, k, v from a file.

use seqpar::dtype::Dtype;
use seqpar::shard::Shard;
use seqpar::strategy::{self, AttentionProblem, Options, Strategy};

use crate::args::{AttentionArgs, Text};
use crate::choice;
use crate::engine::{self, Tensors};
use crate::fault::{Fault, Result};
use crate::mask;
use crate::numbers::Wanted;
use crate::results::{Files, Saved};
use crate::run::Launch;
use crate::tensors::TensorFile;

const KNOWN: [&str; 7] = ["q", "k", "v", "text_q", "text_k", "text_v", "key_mask"];

pub(crate) fn run(args: &AttentionArgs) -> Result<()> {
    refuse_weights(args)?;
    let files = Files::claim(&args.output, args.run.trace.as_deref(), &[("--input", &args.input)])?;
    let mut input = TensorFile::read(&args.input)?;
    let sizes = Sizes::read(&input)?;
    let Sizes { batch, heads, kv_heads, head_dim, tokens, keys, text, .. } = sizes;
    let replicate = args.text == Text::Replicate;
    let shard = Shard::even(args.run.spread.ranks, tokens, keys, text, replicate)?;
    let problem = AttentionProblem {
        dtype: sizes.dtype,
        batch,
        heads,
        kv_heads,
        head_dim,
        shard,
        key_mask: input.has("key_mask"),
        key_len: false,
    };
    let launch =
        Launch::new(&args.run, heads, kv_heads, |machine| choice::attention(&problem, &args.run.spread, machine))?;
    let plans = strategy::attention(&problem, launch.strategy, &launch.mesh, &Options::default())?;
    let (outputs, facts) = engine::run(plans, &inputs(&mut input, &sizes)?, &launch)?;
    let mut results = vec![Saved::new("out", &[batch, tokens, heads, head_dim])];
    if text > 0 {
        results.push(Saved::new("text_out", &[batch, text, heads, head_dim]));
    }
    results.push(Saved::new("lse", &[batch, heads, text + tokens]));
    files.finish(args.run.json, &launch, &facts, &outputs, results)
}

fn refuse_weights(args: &AttentionArgs) -> Result<()> {
    match args.run.spread.strategy {
        Some(Wanted::Named(strategy)) if strategy.needs_weights() => {
            let known = Strategy::ALL.into_iter().filter(|s| !s.needs_weights()).map(Strategy::name);
            let known: Vec<&str> = known.collect();
            Err(Fault::Usage(format!(
                "--strategy {} needs weights: use `seqpar layer`, or here {} or auto",
                strategy.name(),
                known.join(", ")
            )))
        }
        _ => Ok(()),
    }
}

struct Sizes {
    dtype: Dtype,
    batch: usize,
    tokens: usize,
    keys: usize,
    text: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn read(input: &TensorFile) -> Result<Self> {
        let [batch, tokens, heads, head_dim] = input.dims("q", "[B, N, H, D]")?;
        let [_, keys, kv_heads, _] = input.dims("k", "[B, M, Hkv, D]")?;
        input.need_shape("k", "[B, M, Hkv, D]", &[batch, keys, kv_heads, head_dim])?;
        input.need_shape("v", "[B, M, Hkv, D], as k,", &[batch, keys, kv_heads, head_dim])?;
        if heads % kv_heads != 0 {
            let why = format!("has {kv_heads} heads, but q has {heads}: that must be a multiple of it");
            return Err(input.fault("k", why));
        }
        let mut floats = vec!["q", "k", "v"];
        let mut text = 0;
        if let Some(there) = KNOWN[3..6].iter().find(|name| input.has(name)) {
            if let Some(missing) = KNOWN[3..6].iter().find(|name| !input.has(name)) {
                return Err(input.fault(there, format!("is there without \"{missing}\": joint text needs all three")));
            }
            [_, text, _, _] = input.dims("text_q", "[B, T, H, D]")?;
            input.need_shape("text_q", "[B, T, H, D]", &[batch, text, heads, head_dim])?;
            input.need_shape("text_k", "[B, T, Hkv, D]", &[batch, text, kv_heads, head_dim])?;
            input.need_shape("text_v", "[B, T, Hkv, D]", &[batch, text, kv_heads, head_dim])?;
            floats.extend(&KNOWN[3..6]);
        }
        mask::check(input, batch, text + keys)?;
        input.refuse_unknown(&KNOWN)?;
        let dtype = input.float_dtype(&floats)?;
        Ok(Self { dtype, batch, tokens, keys, text, heads, kv_heads, head_dim })
    }
}

fn inputs(input: &mut TensorFile, sizes: &Sizes) -> Result<Tensors> {
    let Sizes { dtype, batch, head_dim: d, .. } = *sizes;
    let names = KNOWN[..6].iter().filter(|name| input.has(name)).copied().collect::<Vec<_>>();
    let mut tensors = Tensors::new();
    for name in names {
        let rows = if name.starts_with("text_") {
            sizes.text
        } else if name == "q" {
            sizes.tokens
        } else {
            sizes.keys
        };
        let heads = if name.ends_with('q') { sizes.heads } else { sizes.kv_heads };
        let tensor = engine::tensor(dtype, [batch, rows, heads, d], input.take_bytes(name)?)?;
        tensors.insert(name.into(), tensor);
    }
    mask::take(input, &mut tensors, [batch, sizes.text + sizes.keys])?;
    Ok(tensors)
}
