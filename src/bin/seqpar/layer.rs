//! `seqpar layer`: x and the weights of one attention layer from a file.

use seqpar::dtype::Dtype;
use seqpar::shard::Shard;
use seqpar::strategy::{self, AttentionProblem, LayerProblem, Options};

use crate::args::{LayerArgs, Text};
use crate::choice;
use crate::engine::{self, Tensors};
use crate::fault::{Fault, Result};
use crate::mask;
use crate::results::{Files, Saved};
use crate::run::Launch;
use crate::tensors::TensorFile;

const WEIGHTS: [&str; 4] = ["qkv_weight", "qkv_bias", "proj_weight", "proj_bias"];
const TEXT_WEIGHTS: [&str; 4] = ["text_qkv_weight", "text_qkv_bias", "text_proj_weight", "text_proj_bias"];

pub(crate) fn run(args: &LayerArgs) -> Result<()> {
    let kv_heads = args.kv_heads.unwrap_or(args.heads);
    if !args.heads.is_multiple_of(kv_heads) {
        let why = format!("--heads {} is not a multiple of --kv-heads {kv_heads}: make it one", args.heads);
        return Err(Fault::Usage(why));
    }
    let files = Files::claim(&args.output, args.run.trace.as_deref(), &[("--input", &args.input)])?;
    let mut input = TensorFile::read(&args.input)?;
    let sizes = Sizes::read(&input, args.heads, kv_heads)?;
    let Sizes { batch, tokens, text, hidden, .. } = sizes;
    let replicate = args.text == Text::Replicate;
    let problem = LayerProblem {
        attention: AttentionProblem {
            dtype: sizes.dtype,
            batch,
            heads: args.heads,
            kv_heads,
            head_dim: sizes.head_dim,
            shard: Shard::even(args.run.spread.ranks, tokens, tokens, text, replicate)?,
            key_mask: input.has("key_mask"),
            key_len: false,
        },
        hidden,
        qkv_bias: input.has("qkv_bias"),
        proj_bias: input.has("proj_bias"),
        text_weights: sizes.text_weights,
        qk_norm: None,
        rope: None,
        mlp: None,
    };
    let launch =
        Launch::new(&args.run, args.heads, kv_heads, |machine| choice::layer(&problem, &args.run.spread, machine))?;
    let plans = strategy::layer(&problem, launch.strategy, &launch.mesh, &Options::default())?;
    let (outputs, facts) = engine::run(plans, &inputs(&mut input, &sizes)?, &launch)?;
    let mut results = vec![Saved::new("out", &[batch, tokens, hidden])];
    if text > 0 {
        results.push(Saved::new("text_out", &[batch, text, hidden]));
    }
    files.finish(args.run.json, &launch, &facts, &outputs, results)
}

struct Sizes {
    dtype: Dtype,
    batch: usize,
    tokens: usize,
    text: usize,
    hidden: usize,
    head_dim: usize,
    text_weights: bool,
}

impl Sizes {
    fn read(input: &TensorFile, heads: usize, kv_heads: usize) -> Result<Self> {
        let [batch, tokens, hidden] = input.dims("x", "[B, N, C]")?;
        let [rows, _] = input.dims("qkv_weight", "[(H + 2 Hkv) D, C]")?;
        let all_heads = heads + 2 * kv_heads;
        if rows % all_heads != 0 {
            let why = format!(
                "has {rows} rows, no multiple of H + 2 Hkv = {all_heads}: check --heads {heads} and --kv-heads {kv_heads}"
            );
            return Err(input.fault("qkv_weight", why));
        }
        let head_dim = rows / all_heads;
        let mut floats = vec!["x"];
        let mut text = 0;
        if input.has("text_x") {
            [_, text, _] = input.dims("text_x", "[B, T, C]")?;
            input.need_shape("text_x", "[B, T, C]", &[batch, text, hidden])?;
            floats.push("text_x");
        }
        let text_weights = TEXT_WEIGHTS.iter().find(|name| input.has(name));
        if let (Some(name), 0) = (text_weights, text) {
            return Err(input.fault(name, "is there without \"text_x\": add that, or leave it out"));
        }
        let sets = [("", WEIGHTS), ("text_", TEXT_WEIGHTS)];
        for (prefix, names) in &sets[..1 + usize::from(text_weights.is_some())] {
            weights(input, prefix, hidden, rows, heads * head_dim)?;
            for (own, shared) in names.iter().zip(WEIGHTS) {
                if input.has(own) != input.has(shared) {
                    let there = if input.has(own) { (own, shared) } else { (&shared, *own) };
                    let why = format!("is there without \"{}\": the text twins come all or none", there.1);
                    return Err(input.fault(there.0, why));
                }
            }
            floats.extend(names.iter().filter(|name| input.has(name)));
        }
        mask::check(input, batch, text + tokens)?;
        let known: Vec<&str> = ["x", "text_x", "key_mask"].into_iter().chain(WEIGHTS).chain(TEXT_WEIGHTS).collect();
        input.refuse_unknown(&known)?;
        let dtype = input.float_dtype(&floats)?;
        Ok(Self { dtype, batch, tokens, text, hidden, head_dim, text_weights: text_weights.is_some() })
    }
}

/// Checks one set of weights.
fn weights(input: &TensorFile, prefix: &str, hidden: usize, qkv_rows: usize, attended: usize) -> Result<()> {
    let name = |name: &str| format!("{prefix}{name}");
    input.need_shape(&name("qkv_weight"), "[(H + 2 Hkv) D, C]", &[qkv_rows, hidden])?;
    input.need_shape(&name("proj_weight"), "[C, H D]", &[hidden, attended])?;
    if input.has(&name("qkv_bias")) {
        input.need_shape(&name("qkv_bias"), "[(H + 2 Hkv) D]", &[qkv_rows])?;
    }
    if input.has(&name("proj_bias")) {
        input.need_shape(&name("proj_bias"), "[C]", &[hidden])?;
    }
    Ok(())
}

fn inputs(input: &mut TensorFile, sizes: &Sizes) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    let names: Vec<String> = input.tensors.keys().filter(|name| *name != "key_mask").cloned().collect();
    for name in names {
        let shape = input.tensor(&name)?.shape.clone();
        let dims = match *shape.as_slice() {
            [batch, rows, channels] => [batch, rows, 1, channels],
            [rows, columns] => [1, rows, 1, columns],
            [columns] => [1, 1, 1, columns],
            _ => return Err(input.fault(&name, format!("has shape {shape:?}"))),
        };
        let tensor = engine::tensor(sizes.dtype, dims, input.take_bytes(&name)?)?;
        tensors.insert(name, tensor);
    }
    mask::take(input, &mut tensors, [sizes.batch, sizes.text + sizes.tokens])?;
    Ok(tensors)
}
