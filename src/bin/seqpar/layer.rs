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
        qkv_bias: sizes.biases[0],
        proj_bias: sizes.biases[1],
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
    /// Whether text has a weight or bias of its own.
    text_weights: bool,
    /// Whether either segment has a bias, of qkv and of proj.
    biases: [bool; 2],
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
        for name in ["qkv_weight", "proj_weight"] {
            input.tensor(name)?;
        }
        for prefix in ["", "text_"] {
            weights(input, prefix, hidden, rows, heads * head_dim)?;
        }
        floats.extend(WEIGHTS.iter().chain(&TEXT_WEIGHTS).filter(|name| input.has(name)));
        let biases = ["qkv", "proj"].map(|of| ["", "text_"].iter().any(|who| input.has(&format!("{who}{of}_bias"))));
        mask::check(input, batch, text + tokens)?;
        let known: Vec<&str> = ["x", "text_x", "key_mask"].into_iter().chain(WEIGHTS).chain(TEXT_WEIGHTS).collect();
        input.refuse_unknown(&known)?;
        let dtype = input.float_dtype(&floats)?;
        Ok(Self { dtype, batch, tokens, text, hidden, head_dim, text_weights: text_weights.is_some(), biases })
    }
}

/// Checks what is there of one set of weights.
fn weights(input: &TensorFile, prefix: &str, hidden: usize, qkv_rows: usize, attended: usize) -> Result<()> {
    let forms: [(&str, &str, &[usize]); 4] = [
        ("qkv_weight", "[(H + 2 Hkv) D, C]", &[qkv_rows, hidden]),
        ("qkv_bias", "[(H + 2 Hkv) D]", &[qkv_rows]),
        ("proj_weight", "[C, H D]", &[hidden, attended]),
        ("proj_bias", "[C]", &[hidden]),
    ];
    for (name, form, dims) in forms {
        let name = format!("{prefix}{name}");
        if input.has(&name) {
            input.need_shape(&name, form, dims)?;
        }
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
    if sizes.text_weights {
        share(&mut tensors);
    }
    mask::take(input, &mut tensors, [sizes.batch, sizes.text + sizes.tokens])?;
    Ok(tensors)
}

/// Gives text the image's tensor where it has no twin of it. A bias that only text has leaves the
/// image's sums as they are: -0 is what adding changes no bit of.
fn share(tensors: &mut Tensors) {
    for (own, shared) in TEXT_WEIGHTS.into_iter().zip(WEIGHTS) {
        match (tensors.get(own), tensors.get(shared)) {
            (None, Some(image)) => {
                let twin = image.clone();
                tensors.insert(own.into(), twin);
            }
            (Some(text), None) => {
                let mut none = text.clone();
                let size = none.dtype.bytes();
                for value in none.bytes.chunks_exact_mut(size) {
                    value.fill(0);
                    value[size - 1] = 0x80;
                }
                tensors.insert(shared.into(), none);
            }
            _ => {}
        }
    }
}
