//! A plan as text, as JSON and as a number, all stable: a refactor of a strategy shows its diff.
//!
//! [`text`] is for people, [`json`] for programs, [`hash`] for equality over builds. Nothing is
//! refused. Tests: `tests/plan_dump.rs` with `tests/golden/`.

use std::fmt::Write;

use super::lower::{Command, EventId, Gates, Lowered};
use super::{Access, Buffer, Checked, OpId, OpKind, Plan, Role};
use crate::json::Writer;
use crate::kernel::spec::Mode;

/// The plan for people: streams, buffers, ops in issue order, totals.
pub fn text(plan: &Checked<Plan>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, plan);
    out
}

/// The plan as one JSON object: `rank, world, streams, buffers, ops, edges, waits, records,
/// bytes_sent, messages_sent, peak_bytes, flops, hash`.
///
/// An op is `{label, kind, kernel?, tag?, stream, reads, writes, bytes_sent, flops}`; an edge
/// `[from, to, "event" | "gate"]`; `waits` and `records` count those of the lowered form, gates as
/// flags.
pub fn json(plan: &Checked<Plan>) -> String {
    let mut out = Writer::new();
    out.begin_object().key("rank").integer(plan.rank).key("world").integer(plan.world);
    out.key("streams").strings(&plan.streams);
    out.key("buffers").begin_array();
    for (buffer, offset) in plan.buffers.iter().zip(&plan.memory().offsets) {
        out.newline().begin_object().key("name").string(&buffer.name).key("role").string(role(buffer));
        out.key("dtype").string(buffer.dtype.name()).key("dims").integers(buffer.dims.map(|n| n as u64));
        if let Some(offset) = offset {
            out.key("offset").integer(*offset as u64);
        }
        out.end_object();
    }
    out.end_array().key("ops").begin_array();
    for id in plan.op_ids() {
        json_op(out.newline(), plan, id);
    }
    out.end_array().key("edges").begin_array();
    for edge in plan.edges() {
        let kind = if edge.gate { "gate" } else { "event" };
        out.begin_array().integer(edge.from.0).integer(edge.to.0).string(kind).end_array();
    }
    let lowered = plan.lowered(Gates::Flags);
    let count = |of: fn(&Command) -> bool| lowered.streams.iter().flatten().filter(|c| of(c)).count() as u64;
    out.end_array();
    out.newline().key("waits").integer(count(|c| matches!(c, Command::Wait(_))) + lowered.gates.len() as u64);
    out.key("records").integer(count(|c| matches!(c, Command::Record(_) | Command::Raise(_))));
    out.key("bytes_sent").integer(plan.bytes_sent()).key("messages_sent").integer(plan.messages_sent());
    out.key("peak_bytes").integer(plan.memory().peak_bytes as u64).key("flops").number(plan.flops());
    out.key("hash").string(&format!("{:016x}", hash(plan))).end_object();
    out.finish()
}

/// A number that is equal for equal plans, on every build and machine: FNV-1a over the canonical
/// form, which is the plan's fields in order, each with its name (the derived `Debug` form).
pub fn hash(plan: &Plan) -> u64 {
    struct Fnv(u64);
    impl Write for Fnv {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for byte in text.bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            Ok(())
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    // This writer cannot fail.
    let _ = write!(fnv, "{plan:?}");
    fnv.0
}

fn write_text(out: &mut String, plan: &Checked<Plan>) -> std::fmt::Result {
    writeln!(out, "rank {} of {}; streams: {}", plan.rank, plan.world, plan.streams.join(", "))?;
    writeln!(out, "buffers")?;
    for (buffer, offset) in plan.buffers.iter().zip(&plan.memory().offsets) {
        let at = offset.map_or(String::new(), |offset| format!(" at {offset}"));
        writeln!(out, "  {} {} {} {:?}{at}", role(buffer), buffer.name, buffer.dtype, buffer.dims)?;
    }
    writeln!(out, "ops")?;
    let lowered = plan.lowered(Gates::Flags);
    let waits = waits_by_op(plan, &lowered);
    for id in plan.op_ids() {
        writeln!(
            out,
            "  {:>3} [{}] {}: {}",
            id.0,
            plan.streams[plan.op(id).stream.0 as usize],
            plan.label(id),
            kind(plan, id)
        )?;
        for (verb, accesses) in [("reads", reads(plan, id)), ("writes", writes(plan, id))] {
            if !accesses.is_empty() {
                writeln!(out, "        {verb} {}", accesses.join(" "))?;
            }
        }
        if !waits[id.0 as usize].is_empty() {
            writeln!(out, "        waits for {}", waits[id.0 as usize].join(", "))?;
        }
    }
    let memory = plan.memory();
    writeln!(
        out,
        "sends {} bytes in {} messages; {} flops; peak {} bytes ({} arena, {} bound)",
        plan.bytes_sent(),
        plan.messages_sent(),
        plan.flops(),
        memory.peak_bytes,
        memory.arena_bytes,
        memory.bound_bytes
    )
}

fn json_op(out: &mut Writer, plan: &Plan, id: OpId) {
    let name = match plan.op(id).kind {
        OpKind::Kernel(_) => "kernel",
        OpKind::Comm(i) => plan.comms[i as usize].kind.name(),
        OpKind::Copy => "copy",
        OpKind::External(_) => "external",
        OpKind::Mark => "mark",
    };
    out.begin_object().key("label").string(plan.label(id)).key("kind").string(name);
    if let Some(kernel) = plan.kernel(id) {
        out.key("kernel").string(&kernel.name());
    }
    if let Some(comm) = plan.comm(id) {
        out.key("tag").integer(comm.tag.0);
    }
    out.key("stream").integer(plan.op(id).stream.0);
    out.key("reads").strings(reads(plan, id)).key("writes").strings(writes(plan, id));
    out.key("bytes_sent").integer(plan.op_bytes_sent(id));
    out.key("flops").number(plan.kernel(id).map_or(0.0, |kernel| kernel.cost().flops)).end_object();
}

/// What each op waits for beyond its stream, as labels; a gate names its piece.
fn waits_by_op(plan: &Plan, lowered: &Lowered) -> Vec<Vec<String>> {
    let mut setter = vec![None; lowered.events as usize];
    for commands in &lowered.streams {
        let mut last = None;
        for command in commands {
            match command {
                Command::Run(id) => last = Some(*id),
                Command::Record(event) | Command::Raise(event) => setter[event.0 as usize] = last,
                Command::Wait(_) => {}
            }
        }
    }
    let name = |event: EventId| match setter[event.0 as usize] {
        Some(id) => format!("{} \"{}\"", id.0, plan.label(id)),
        None => "nothing".to_string(),
    };
    let mut waits = vec![Vec::new(); plan.ops.len()];
    for commands in &lowered.streams {
        let mut pending = Vec::new();
        for command in commands {
            match command {
                Command::Wait(event) => pending.push(name(*event)),
                Command::Run(id) => waits[id.0 as usize].append(&mut pending),
                Command::Record(_) | Command::Raise(_) => {}
            }
        }
    }
    for gate in &lowered.gates {
        waits[gate.op.0 as usize].push(format!("{} in piece {}", name(gate.flag), gate.piece));
    }
    waits
}

fn kind(plan: &Plan, id: OpId) -> String {
    match plan.op(id).kind {
        OpKind::Kernel(i) => plan.kernels[i as usize].name(),
        OpKind::Comm(i) => {
            let comm = &plan.comms[i as usize];
            let ranks = plan.groups[comm.group as usize].len();
            let bytes = plan.op_bytes_sent(id);
            format!("{} tag {} among {ranks} ranks, sends {bytes} bytes", comm.kind.name(), comm.tag.0)
        }
        OpKind::Copy => "copy".into(),
        OpKind::External(_) => "external".into(),
        OpKind::Mark => "mark".into(),
    }
}

fn reads(plan: &Plan, id: OpId) -> Vec<String> {
    plan.accesses(id).iter().filter(|a| a.mode.reads()).map(|a| region(plan, a)).collect()
}

fn writes(plan: &Plan, id: OpId) -> Vec<String> {
    plan.accesses(id).iter().filter(|a| a.mode != Mode::Read).map(|a| region(plan, a)).collect()
}

/// `x` whole, else `x[0:2, :, 3:4, :]`.
fn region(plan: &Plan, access: &Access) -> String {
    let buffer = plan.buffer(access.buffer);
    let whole = |i: usize| access.region.start[i] == 0 && access.region.end[i] as usize == buffer.dims[i];
    if (0..4).all(whole) {
        return buffer.name.clone();
    }
    let range = |i: usize| match whole(i) {
        true => ":".to_string(),
        false => format!("{}:{}", access.region.start[i], access.region.end[i]),
    };
    format!("{}[{}, {}, {}, {}]", buffer.name, range(0), range(1), range(2), range(3))
}

fn role(buffer: &Buffer) -> &'static str {
    match buffer.role {
        Role::Input => "input",
        Role::Output => "output",
        Role::Temp => "temp",
    }
}
