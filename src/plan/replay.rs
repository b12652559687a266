//! The law for a lowered plan: its commands are run without doing anything, and the order that
//! they alone imply must keep every derived edge. Tests: `tests/law.rs`, `tests/plan_properties.rs`.

use super::edges::Edge;
use super::lower::{Command, Lowered};
use super::order::{HappensBefore, join};
use super::{OpId, Plan, gates, rules};
use crate::error::Result;

/// Records, waits, flags and runs of `lowered` against `edges`.
pub(super) fn check(plan: &Plan, edges: &[Edge], lowered: &Lowered) -> Result<()> {
    ops_run_once(plan, lowered)?;
    let marks = Marks::of(plan, lowered)?;
    let replay = Replay::of(plan, lowered, &marks)?;
    replay.keeps(plan, edges)?;
    // Only now, so that a lost record is reported by the edge that it loses.
    marks.waits_are_met(plan, lowered)
}

fn ops_run_once(plan: &Plan, lowered: &Lowered) -> Result<()> {
    if lowered.streams.len() != plan.streams.len() {
        let why = format!("{} streams were lowered to {}: lower again", plan.streams.len(), lowered.streams.len());
        return Err(rules::law(plan, "lowered", why));
    }
    let mut expected = vec![Vec::new(); plan.streams.len()];
    for id in plan.op_ids() {
        expected[plan.op(id).stream.0 as usize].push(id);
    }
    for (commands, expected) in lowered.streams.iter().zip(expected) {
        let mut expected = expected.into_iter();
        let runs = commands.iter().filter_map(|c| if let Command::Run(id) = c { Some(*id) } else { None });
        for id in runs {
            let wanted = expected.next();
            if wanted != Some(id) {
                let name = if plan.ops.get(id.0 as usize).is_some() { plan.label(id) } else { "unknown op" };
                return Err(rules::law(plan, name, "runs twice, out of plan order or on another stream: lower again"));
            }
        }
        if let Some(id) = expected.next() {
            return Err(rules::at(plan, id, "is never run: lower again"));
        }
    }
    Ok(())
}

/// Who records and raises.
struct Marks {
    recorded: Vec<bool>,
    raised: Vec<bool>,
}

impl Marks {
    fn of(plan: &Plan, lowered: &Lowered) -> Result<Self> {
        let none = vec![false; lowered.events as usize];
        let mut marks = Self { recorded: none.clone(), raised: none };
        for commands in &lowered.streams {
            let mut after = "lowered";
            for command in commands {
                let (event, seen) = match command {
                    Command::Run(id) => {
                        after = plan.label(*id);
                        continue;
                    }
                    Command::Wait(event) if event.0 < lowered.events => continue,
                    Command::Wait(event) => (event, None),
                    Command::Record(event) => (event, marks.recorded.get_mut(event.0 as usize)),
                    Command::Raise(event) => (event, marks.raised.get_mut(event.0 as usize)),
                };
                match seen {
                    Some(seen) if !*seen => *seen = true,
                    _ => {
                        let why = format!("event {} after it is out of range or set twice: lower again", event.0);
                        return Err(rules::law(plan, after, why));
                    }
                }
            }
        }
        for gate in &lowered.gates {
            let op = plan.ops.get(gate.op.0 as usize);
            let pieces = op.and_then(|_| plan.kernel(gate.op)).map_or(0, |kernel| kernel.pieces());
            if gate.piece as usize >= pieces || gate.flag.0 >= lowered.events {
                let name = if op.is_some() { plan.label(gate.op) } else { "unknown op" };
                return Err(rules::law(plan, name, "waits for a flag in a piece that it has not: lower again"));
            }
        }
        Ok(marks)
    }

    fn waits_are_met(&self, plan: &Plan, lowered: &Lowered) -> Result<()> {
        for commands in &lowered.streams {
            let mut lost = None;
            for command in commands {
                match command {
                    Command::Wait(event) if !self.recorded[event.0 as usize] => lost = Some(event.0),
                    Command::Run(id) => {
                        if let Some(event) = lost {
                            let why = format!("waits for event {event}, which nobody records: lower again");
                            return Err(rules::at(plan, *id, why));
                        }
                    }
                    _ => {}
                }
            }
            if let Some(event) = lost {
                let why = format!("a stream ends by waiting for event {event}, which nobody records: lower again");
                return Err(rules::law(plan, "lowered", why));
            }
        }
        match lowered.gates.iter().find(|gate| !self.raised[gate.flag.0 as usize]) {
            Some(gate) => {
                let why =
                    format!("piece {} waits for flag {}, which nobody raises: lower again", gate.piece, gate.flag.0);
                Err(rules::at(plan, gate.op, why))
            }
            None => Ok(()),
        }
    }
}

/// The order that the commands imply, found by running them without doing anything.
struct Replay {
    order: HappensBefore,
    /// For each gate wait: (kernel, piece) and what has ended when the flag is up.
    gates: Vec<(OpId, u16, Vec<u32>)>,
}

impl Replay {
    fn of(plan: &Plan, lowered: &Lowered, marks: &Marks) -> Result<Self> {
        let streams = plan.streams.len();
        let mut order = HappensBefore::unordered(plan);
        let mut events: Vec<Option<Vec<u32>>> = vec![None; lowered.events as usize];
        let mut flags = events.clone();
        let mut gates_of = vec![Vec::new(); plan.ops.len()];
        for gate in &lowered.gates {
            gates_of[gate.op.0 as usize].push(gate);
        }
        let mut gates = Vec::new();
        let mut clocks = vec![vec![0; streams]; streams];
        let mut next = vec![0; streams];
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for stream in 0..streams {
                while let Some(command) = lowered.streams[stream].get(next[stream]) {
                    let clock = &mut clocks[stream];
                    match command {
                        // A lost record or raise orders nothing; it is reported later.
                        Command::Wait(event) if !marks.recorded[event.0 as usize] => {}
                        Command::Wait(event) => match &events[event.0 as usize] {
                            Some(ended) => join(clock, ended),
                            None => break,
                        },
                        Command::Record(event) => events[event.0 as usize] = Some(clock.clone()),
                        Command::Raise(event) => flags[event.0 as usize] = Some(clock.clone()),
                        Command::Run(id) => {
                            let waits = gates_of[id.0 as usize].iter();
                            let waits = waits.filter(|gate| marks.raised[gate.flag.0 as usize]);
                            if waits.clone().any(|gate| flags[gate.flag.0 as usize].is_none()) {
                                break;
                            }
                            let start = clock.clone();
                            for gate in waits {
                                if let Some(ended) = &flags[gate.flag.0 as usize] {
                                    gates.push((*id, gate.piece, ended.clone()));
                                    join(clock, ended);
                                }
                            }
                            clock[stream] = order.place(*id).1 + 1;
                            order.set(*id, &start, clock);
                        }
                    }
                    next[stream] += 1;
                    moved = true;
                }
            }
        }
        for (stream, commands) in lowered.streams.iter().enumerate() {
            let blocked = commands[next[stream]..].iter();
            if let Some(id) = blocked.filter_map(|c| if let Command::Run(id) = c { Some(*id) } else { None }).next() {
                return Err(rules::at(plan, id, "waits for something that waits for it: lower again"));
            }
        }
        gates.sort();
        Ok(Self { order, gates })
    }

    fn keeps(&self, plan: &Plan, edges: &[Edge]) -> Result<()> {
        let lost = |edge: &Edge, whom: String| {
            let why = format!("{whom} no longer waits for \"{}\": lower again", plan.label(edge.from));
            Err(rules::at(plan, edge.to, why))
        };
        for edge in edges {
            if self.order.ends_before_start(edge.from, edge.to) {
                continue;
            }
            if !edge.gate {
                return lost(edge, "its start".into());
            }
            for piece in gates::pieces(plan, edge) {
                let first = self.gates.partition_point(|(op, at, _)| (*op, *at) < (edge.to, piece));
                let waits = self.gates[first..].iter().take_while(|(op, at, _)| (*op, *at) == (edge.to, piece));
                if !waits.into_iter().any(|(_, _, ended)| self.order.clock_has(ended, edge.from)) {
                    return lost(edge, format!("its piece {piece}"));
                }
            }
        }
        Ok(())
    }
}
