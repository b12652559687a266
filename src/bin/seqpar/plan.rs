//! `seqpar plan`: what every rank would do, without doing it.

use seqpar::auto;
use seqpar::shard::Shard;
use seqpar::strategy::{self, AttentionProblem, LayerProblem, Options};

use crate::args::{PlanArgs, Text};
use crate::choice;
use crate::dump;
use crate::fault::{Fault, Result};
use crate::output;
use crate::run;

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let problem = problem(args)?;
    if args.explain {
        return choice::explain(&problem, &args.spread, args.json).map_err(from_flags);
    }
    let ranks = args.spread.ranks;
    if let Some(rank) = args.rank.filter(|&rank| rank >= ranks) {
        return Err(Fault::Usage(format!("--rank {rank}, but there are {ranks} ranks: use 0 to {}", ranks - 1)));
    }
    let attention = &problem.attention;
    let (strategy, mesh) = run::spread(&args.spread, attention.heads, attention.kv_heads, |machine| {
        choice::layer(&problem, &args.spread, machine)
    })
    .map_err(from_flags)?;
    let options = Options::default();
    let build = |rank| strategy::layer_rank(&problem, strategy, &mesh, &options, rank);
    let checked = auto::lawful(ranks, build).map_err(usage)?;
    if args.json {
        return output::print(&dump::json(&checked, args.rank));
    }
    let mut text = format!("{}, one transformer layer\n", run::describe(strategy, &mesh));
    text += &dump::text(&checked, args.rank);
    output::print(&text)
}

/// Every size of a plan comes from a flag.
fn usage(error: seqpar::Error) -> Fault {
    Fault::Usage(error.to_string())
}

fn from_flags(fault: Fault) -> Fault {
    match fault {
        Fault::Data(why) => Fault::Usage(why),
        other => other,
    }
}

fn problem(args: &PlanArgs) -> Result<LayerProblem> {
    let kv_heads = args.kv_heads.unwrap_or(args.heads);
    if !args.heads.is_multiple_of(kv_heads) {
        let why = format!("--heads {} is not a multiple of --kv-heads {kv_heads}: make it one", args.heads);
        return Err(Fault::Usage(why));
    }
    let attended = args.heads.checked_mul(args.head_dim).filter(|&n| n <= 1 << 20);
    let attended =
        attended.ok_or_else(|| Fault::Usage("--heads times --head-dim is above 1048576: lower one".into()))?;
    let hidden = args.hidden.unwrap_or(attended);
    let rows = (args.tokens + args.text_tokens).checked_mul(args.batch);
    let widest = hidden.max(attended).checked_mul(4);
    match rows.zip(widest).and_then(|(rows, widest)| rows.max(widest).checked_mul(widest)) {
        Some(elems) if elems <= u32::MAX as usize => {}
        _ => {
            let why =
                "a tensor of this layer would have more than 4294967295 elements: lower --tokens, --batch or --hidden";
            return Err(Fault::Usage(why.into()));
        }
    }
    let replicate = args.text == Text::Replicate;
    let shard = Shard::even(args.spread.ranks, args.tokens, args.tokens, args.text_tokens, replicate).map_err(usage)?;
    Ok(LayerProblem {
        attention: AttentionProblem {
            dtype: args.dtype,
            batch: args.batch,
            heads: args.heads,
            kv_heads,
            head_dim: args.head_dim,
            shard,
            key_mask: false,
            key_len: false,
        },
        hidden,
        qkv_bias: true,
        proj_bias: true,
        text_weights: args.text_tokens > 0,
        qk_norm: None,
        rope: None,
        mlp: Some(4 * hidden),
    })
}
