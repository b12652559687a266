//! `seqpar kernels`: every CUDA kernel of the library, what it takes of a GPU and what bounds it.
//! Needs no GPU; measured figures come from a record that a run on one has written:
//!
//! ```text
//! { "rows": [ { "symbol": "...", "arch": "sm_90a", "flops_per_s" or "bytes_per_s": ... } ] }
//! ```
//!
//! Other keys, and rows without a symbol, are not read. Proof: `tests/cli/kernels.rs`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use seqpar::kernel::cuda::{GEMM_SHAPE, Gpu, Occupancy, Rate, Variant, bound, occupancy, variants};
use serde_json::{Value, json};

use crate::args::KernelsArgs;
use crate::fault::{Fault, Result};
use crate::output;
use crate::table;

pub(crate) fn run(args: &KernelsArgs) -> Result<()> {
    let families: BTreeSet<&str> = variants().iter().map(|variant| variant.resources.family.as_str()).collect();
    if let Some(family) = args.family.as_deref().filter(|family| !families.contains(family)) {
        let names: Vec<&str> = families.into_iter().collect();
        return Err(Fault::Usage(format!("--family {family}: use one of {}", names.join(", "))));
    }
    let measured = args.record.as_deref().map(read_record).transpose()?.unwrap_or_default();
    let wanted = |variant: &&Variant| {
        args.arch.as_deref().is_none_or(|arch| variant.resources.arch == arch)
            && args.family.as_deref().is_none_or(|family| variant.resources.family == family)
    };
    let lines: Vec<Line> =
        variants().iter().filter(wanted).filter_map(|variant| Line::of(variant, &measured)).collect();
    if args.json {
        let kernels: Vec<Value> = lines.iter().map(Line::as_value).collect();
        return output::print(&json!({ "gemm_shape": GEMM_SHAPE, "kernels": kernels }).to_string());
    }
    let header =
        ["kernel", "arch", "registers", "shared", "threads", "blocks/SM", "warps/SM", "limit", "bound", "", "measured"];
    let rows: Vec<Vec<String>> = lines.iter().map(Line::cells).collect();
    let [m, n, k] = GEMM_SHAPE;
    let mut text = table::render(&header, &rows);
    text += &format!(
        "\nshared: static and dynamic shared memory of a block; qk_norm_rope at head dim 128\n\
         limit: what keeps another block out of an SM\n\
         bound: sm_80 on an A100, sm_90a on an H200, from data sheets; linear layers at {m} x {n} x {k}\n\
         measured: of a record (--record), with its share of the bound\n"
    );
    output::print(&text)
}

/// Rates by symbol and architecture.
type Measured = HashMap<(String, String), Rate>;

fn read_record(path: &Path) -> Result<Measured> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    let record: Value = serde_json::from_str(&text).map_err(|error| Fault::file(path, error))?;
    let Some(rows) = record["rows"].as_array() else {
        return Err(Fault::file(path, "no rows: use a record of measured kernels"));
    };
    let mut measured = Measured::new();
    for row in rows {
        let Some(symbol) = row["symbol"].as_str() else { continue };
        let arch = row["arch"].as_str();
        let positive = |key: &str| row[key].as_f64().filter(|&rate| rate > 0.0);
        let rate = positive("flops_per_s").map(Rate::Flops).or(positive("bytes_per_s").map(Rate::Bytes));
        let (Some(arch), Some(rate)) = (arch, rate) else {
            let why = format!("{symbol}: give arch, and flops_per_s or bytes_per_s above 0");
            return Err(Fault::file(path, why));
        };
        measured.insert((symbol.into(), arch.into()), rate);
    }
    Ok(measured)
}

/// A variant on the device that its code is for.
struct Line<'a> {
    variant: &'a Variant,
    gpu: &'static Gpu,
    occupancy: Occupancy,
    resource: &'static str,
    bound: Rate,
    measured: Option<Rate>,
}

impl<'a> Line<'a> {
    fn of(variant: &'a Variant, measured: &Measured) -> Option<Self> {
        let resources = &variant.resources;
        let gpu = Gpu::of(&resources.arch)?;
        let limit = bound(variant, gpu);
        Some(Self {
            variant,
            gpu,
            occupancy: occupancy(variant, gpu),
            resource: limit.resource,
            bound: limit.rate,
            measured: measured.get(&(resources.symbol.clone(), resources.arch.clone())).copied(),
        })
    }

    fn shared_bytes(&self) -> u32 {
        self.variant.shared_bytes + self.variant.resources.shared_bytes
    }

    fn cells(&self) -> Vec<String> {
        let Variant { resources, threads, .. } = self.variant;
        let measured = match self.measured {
            Some(rate) => format!("{} ({:.0} %)", rate, 100.0 * rate.per_s() / self.bound.per_s()),
            None => "-".into(),
        };
        vec![
            resources.symbol.clone(),
            resources.arch.clone(),
            resources.registers.to_string(),
            table::bytes(self.shared_bytes().into()),
            threads.to_string(),
            self.occupancy.blocks.to_string(),
            self.occupancy.warps.to_string(),
            self.occupancy.limit.name().into(),
            self.resource.into(),
            self.bound.to_string(),
            measured,
        ]
    }

    fn as_value(&self) -> Value {
        let Variant { resources, threads, shared_bytes, .. } = self.variant;
        json!({
            "symbol": resources.symbol,
            "arch": resources.arch,
            "family": resources.family,
            "registers": resources.registers,
            "spill_bytes": resources.spill_bytes,
            "static_shared_bytes": resources.shared_bytes,
            "dynamic_shared_bytes": shared_bytes,
            "threads": threads,
            "blocks_per_sm": self.occupancy.blocks,
            "warps_per_sm": self.occupancy.warps,
            "limit": self.occupancy.limit.name(),
            "device": self.gpu.name,
            "bound_resource": self.resource,
            "bound": { self.bound.key(): self.bound.per_s() },
            "measured": self.measured.map(|rate| json!({ rate.key(): rate.per_s() })),
        })
    }
}
