//! One collective on a machine, in nccl-tests' figures.

use seqpar::exec::collective::Collective;
use seqpar::exec::sim::{Launch, SimMachine, SimOptions, Transport, World};
use seqpar::plan::check_world;
use serde_json::json;

use crate::args::{SimulateArgs, TransportArg};
use crate::fault::Result;
use crate::output;

pub(super) fn run(args: &SimulateArgs, collective: Collective, machine: &SimMachine) -> Result<()> {
    let bytes = args.bytes.unwrap_or(0);
    let transport = match args.transport {
        TransportArg::Nccl => Transport::Nccl,
        TransportArg::CopyEngine => Transport::CopyEngine,
    };
    let launch = if args.graph { Launch::Graph } else { Launch::Eager };
    let plans = check_world(collective.plans(bytes, args.ranks)?)?;
    let mut world = World::new(machine, SimOptions { transport, launch, measured: None });
    plans.iter().try_for_each(|plan| world.push(plan))?;
    let seconds = world.figures()?.wall_ns as f64 / 1e9;
    let algbw = bytes as f64 / seconds / 1e9;
    let busbw = algbw * collective.bus_factor(args.ranks);
    if args.json {
        let value = json!({
            "collective": collective.name(),
            "machine": machine.name,
            "ranks": args.ranks,
            "bytes": bytes,
            "time_us": seconds * 1e6,
            "algbw_gbps": algbw,
            "busbw_gbps": busbw,
        });
        return output::print(&value.to_string());
    }
    output::print(&format!(
        "# {} on {} ranks of {}, simulated\n# {:>12}  {:>12}  {:>12}  {:>12}\n# {:>12}  {:>12}  {:>12}  {:>12}\n  {bytes:>12}  {:>12.1}  {algbw:>12.2}  {busbw:>12.2}\n",
        collective.name(),
        args.ranks,
        machine.name,
        "size",
        "time",
        "algbw",
        "busbw",
        "(B)",
        "(us)",
        "(GB/s)",
        "(GB/s)",
        seconds * 1e6,
    ))
}
