//! `seqpar simulate`: what a model's layers, or a collective, would take on a machine.

mod case;
mod collective;
mod row;
mod words;

use std::path::Path;

use seqpar::dit::models::{MODELS, Model};
use seqpar::exec::sim::SimMachine;
use serde_json::{Value, json};

use crate::args::SimulateArgs;
use crate::fault::{Fault, Result};
use crate::output::{self, Output};
use crate::table;
use case::Case;

pub(crate) fn run(args: &SimulateArgs) -> Result<()> {
    if args.model.as_deref() == Some("help") {
        return output::print(&models());
    }
    let machine = machine(&args.machine)?;
    if args.ranks > machine.ranks {
        return Err(Fault::Usage(format!(
            "--ranks {}, but machine \"{}\" has {}: use fewer, or a larger machine",
            args.ranks, machine.name, machine.ranks
        )));
    }
    if let Some(collective) = args.collective {
        return collective::run(args, collective, &machine).map_err(from_flags);
    }
    let Some(name) = &args.model else { return Err(Fault::Usage("neither --model nor --collective".into())) };
    let case = Case::new(args, Model::named(name)?, &machine)?;
    let trace = args.trace.as_deref().map(|path| Output::claim("--trace", path)).transpose()?;
    let rows = case.rows(args).map_err(from_flags)?;
    if let Some(file) = trace {
        output::commit(vec![(file, case.trace(&rows[0])?.into_bytes())])?;
    }
    if args.json {
        // The fastest by itself, then all.
        let mut value = rows[0].value(&case);
        let about = json!({
            "model": case.model.name,
            "machine": machine.name,
            "ranks": args.ranks,
            "tokens": case.sizes.tokens,
            "text_tokens": case.sizes.text_tokens,
            "batch": case.sizes.batch,
            "layers": case.model.layers(),
            "strategies": rows.iter().map(|row| row.value(&case)).collect::<Vec<Value>>(),
            "rows": rows.iter().map(|row| row.recorded(&case, args.ranks)).collect::<Vec<Value>>(),
            "reports": case.recorded(&rows)?,
        });
        if let (Some(value), Value::Object(about)) = (value.as_object_mut(), about) {
            value.extend(about);
        }
        return output::print(&value.to_string());
    }
    let mut text = case.heading(args);
    text += &row::render(&rows, &case);
    if args.explain {
        text += &words::explain(&case, &rows).map_err(from_flags)?;
    }
    output::print(&text)
}

/// Every size of a simulation comes from a flag, but for what a machine file says.
fn from_flags(fault: Fault) -> Fault {
    match fault {
        Fault::Data(why) => Fault::Usage(why),
        other => other,
    }
}

/// The machine of that name, or of that file.
pub(crate) fn machine(name: &str) -> Result<SimMachine> {
    let path = Path::new(name);
    if !name.ends_with(".toml") && !name.contains(std::path::MAIN_SEPARATOR) {
        return Ok(SimMachine::named(name)?);
    }
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    let stem = path.file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy());
    SimMachine::parse(&stem, &text).map_err(|error| Fault::file(path, error))
}

fn models() -> String {
    let cells = |model: &Model| {
        let kinds: Vec<String> = model.kinds.iter().map(|kind| format!("{} {}", kind.count, kind.name)).collect();
        vec![
            model.name.to_string(),
            kinds.join(" + "),
            model.hidden.to_string(),
            format!("{} x {}", model.heads, model.head_dim),
            model.tokens.to_string(),
            model.text_tokens.to_string(),
            model.batch.to_string(),
            model.source.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = MODELS.iter().map(cells).collect();
    table::render(&["model", "layers", "hidden", "heads", "tokens", "text", "batch", "source"], &rows)
}
