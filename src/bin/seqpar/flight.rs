//! `seqpar flight`: what the flight records of ranks that failed differ in. Reads files of the
//! layout `seqpar-flight-1` (docs/failure.md), and refuses others. Proof: `tests/cli/flight.rs`.

use std::path::Path;

use seqpar::comm::flight::{Call, Dump, Findings, SCHEMA, State, compare};
use seqpar::comm::signature::{Part, Signature, dtype_named, kind_named};
use serde_json::{Value, json};

use crate::args::FlightArgs;
use crate::fault::{Fault, Result};
use crate::output;

pub(crate) fn run(args: &FlightArgs) -> Result<()> {
    let mut dumps: Vec<Dump> = Vec::with_capacity(args.files.len());
    for path in &args.files {
        let dump = read(path)?;
        if dumps.iter().any(|other| (&other.comm, other.rank) == (&dump.comm, dump.rank)) {
            let why = format!(
                "another file is of rank {} of {} as well: give the records of one failure",
                dump.rank, dump.comm
            );
            return Err(Fault::file(path, why));
        }
        dumps.push(dump);
    }
    let found = compare(&dumps);
    let count: usize = found.iter().map(|found| found.findings.len()).sum();
    if args.json {
        output::print(&json!({ "records": dumps.len(), "findings": as_values(&found) }).to_string())?;
    } else if found.is_empty() {
        output::print(&format!("{} records agree", dumps.len()))?;
    } else {
        let lines: Vec<String> = found.iter().map(Findings::to_string).collect();
        output::print(&lines.join("\n"))?;
    }
    match count {
        0 => Ok(()),
        1 => Err(Fault::Data("the records differ in 1 place".into())),
        n => Err(Fault::Data(format!("the records differ in {n} places"))),
    }
}

fn as_values(found: &[Findings]) -> Vec<Value> {
    let of_comm = |found: &Findings| {
        let finding = |finding: &seqpar::comm::signature::Finding| {
            let sides: Vec<Value> =
                finding.sides.iter().map(|side| json!({ "ranks": side.ranks, "does": side.does })).collect();
            json!({
                "comm": found.comm,
                "seq": finding.seq,
                "differs": finding.category.name(),
                "culprits": finding.culprits,
                "sides": sides,
            })
        };
        found.findings.iter().map(finding).collect::<Vec<Value>>()
    };
    found.iter().flat_map(of_comm).collect()
}

/// Ranks without a record are listed one by one.
const LARGEST_WORLD: u32 = 1 << 20;

fn read(path: &Path) -> Result<Dump> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| Fault::file(path, error))?;
    if value["schema"] != SCHEMA {
        return Err(Fault::file(path, format!("no flight record: its \"schema\" is not \"{SCHEMA}\"")));
    }
    dump(&value).ok_or_else(|| Fault::file(path, "a flight record with fields that are missing or of another type"))
}

fn dump(value: &Value) -> Option<Dump> {
    let mut calls = value["calls"].as_array()?.iter().map(call).collect::<Option<Vec<Call>>>()?;
    // The comparison looks ops up by their number.
    calls.sort_by_key(|call| call.signature.seq);
    let (rank, world) = (small(&value["rank"])?, small(&value["world"])?);
    if rank >= world || world > LARGEST_WORLD {
        return None;
    }
    Some(Dump {
        comm: value["comm"].as_str()?.to_string(),
        rank,
        world,
        failure: value["failure"].as_str().map(str::to_string),
        now_ns: value["now_ns"].as_u64()?,
        overwritten: value["overwritten"].as_u64()?,
        calls,
    })
}

fn call(value: &Value) -> Option<Call> {
    let peer = match &value["peer"] {
        Value::Null => None,
        peer => Some(small(peer)?),
    };
    let signature = Signature {
        comm: 0,
        // One more must still be a number.
        seq: value["seq"].as_u64().filter(|&seq| seq < u64::MAX)?,
        tag: small(&value["tag"])?,
        kind: kind_named(value["kind"].as_str()?)?,
        part: Part::named(value["part"].as_str()?)?,
        dtype: dtype_named(value["dtype"].as_str()?)?,
        peer,
        elems: value["elems"].as_u64()?,
    };
    Some(Call {
        signature,
        label: value["label"].as_str()?.to_string(),
        state: State::named(value["state"].as_str()?)?,
        scheduled_ns: value["scheduled_ns"].as_u64()?,
        started_ns: value["started_ns"].as_u64(),
        completed_ns: value["completed_ns"].as_u64(),
    })
}

fn small(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}
