//! Lowering: from derived edges to event records and waits, and from gates to flags.
//!
//! A wait is written only where stream order and the other waits do not imply it (transitive
//! reduction, by vector clocks); an op is recorded at most once, whoever waits for it. A gate
//! becomes a flag, raised after the filling transfer, for which each piece that reads the region
//! waits; a gate that the kernel's start already implies becomes nothing.
//!
//! Refuses nothing: [`super::check_lowered`] holds the result to the law. Tests:
//! `tests/plan_properties.rs` (every wait is needed, no edge is lost).

use super::edges::{Edge, derive};
use super::order::{HappensBefore, join};
use super::{OpId, Plan};

/// Index of an event or flag of a lowered plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub u32);

/// One command of a stream, run in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Blocks the stream until the event is recorded in this run.
    Wait(EventId),
    /// Runs an op.
    Run(OpId),
    /// Records the event: everything before it on this stream has ended.
    Record(EventId),
    /// Raises the flag that a gated read waits for: the op before it has ended.
    Raise(EventId),
}

/// A read that waits inside its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GateWait {
    /// The gated kernel.
    pub op: OpId,
    /// The piece that waits.
    pub piece: u16,
    /// The flag it waits for.
    pub flag: EventId,
}

/// What a gate becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gates {
    /// A flag that the kernel waits for, piece by piece.
    #[default]
    Flags,
    /// An event that the stream waits for before the kernel starts: the same bits, less overlap.
    Events,
}

/// The commands of every stream of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lowered {
    /// Commands by stream.
    pub streams: Vec<Vec<Command>>,
    /// Number of events and flags.
    pub events: u32,
    /// Waits inside kernels, by kernel, piece and flag.
    pub gates: Vec<GateWait>,
}

/// Lowers the derived edges of `plan` to the fewest records and waits.
pub fn lower(plan: &Plan, gates: Gates) -> Lowered {
    lower_edges(plan, &derive(plan), gates)
}

/// [`lower`] with the edges at hand.
pub(super) fn lower_edges(plan: &Plan, edges: &[Edge], gates: Gates) -> Lowered {
    let strict: Vec<Edge>;
    let edges = match gates {
        Gates::Flags => edges,
        Gates::Events => {
            strict = edges.iter().map(|edge| Edge { gate: false, ..*edge }).collect();
            &strict
        }
    };
    let order = HappensBefore::derived(plan, edges);
    let needs = Needs::of(plan, edges, &order);
    emit(plan, &needs)
}

/// What remains of the edges after the reduction.
struct Needs {
    /// (later op, op it waits for before it starts), by later op.
    waits: Vec<(OpId, OpId)>,
    /// (gated kernel, piece, op that the piece waits for), by kernel.
    gates: Vec<(OpId, u16, OpId)>,
}

impl Needs {
    fn of(plan: &Plan, edges: &[Edge], order: &HappensBefore) -> Self {
        let mut needs = Self { waits: Vec::new(), gates: Vec::new() };
        let mut last = vec![None; plan.streams.len()];
        let mut next_edge = 0;
        let mut before = vec![0; plan.streams.len()];
        for id in plan.op_ids() {
            let first = next_edge;
            while edges.get(next_edge).is_some_and(|edge| edge.to == id) {
                next_edge += 1;
            }
            let incoming = &edges[first..next_edge];
            let stream = plan.op(id).stream.0 as usize;
            before.fill(0);
            if let Some(previous) = last[stream].replace(id) {
                join(&mut before, order.end_clock(previous));
            }
            let events = incoming.iter().filter(|edge| !edge.gate).map(|edge| edge.from);
            needs.waits.extend(reduced(order, &before, events.collect()).into_iter().map(|from| (id, from)));
            if incoming.iter().any(|edge| edge.gate) {
                let flags: Vec<OpId> = incoming.iter().filter(|edge| edge.gate).map(|edge| edge.from).collect();
                for (piece, fillers) in fillers_by_piece(plan, id, &flags) {
                    let fillers = reduced(order, order.start_clock(id), fillers);
                    needs.gates.extend(fillers.into_iter().map(|from| (id, piece, from)));
                }
            }
        }
        needs
    }
}

/// The ops of `wanted` that neither `known` nor the end of another one implies, in plan order.
fn reduced(order: &HappensBefore, known: &[u32], mut wanted: Vec<OpId>) -> Vec<OpId> {
    wanted.retain(|&op| !order.clock_has(known, op));
    // A later op may imply an earlier one, never the reverse.
    wanted.sort_unstable_by(|a, b| b.cmp(a));
    let mut implied = vec![0; known.len()];
    wanted.retain(|&op| {
        let needed = !order.clock_has(&implied, op);
        join(&mut implied, order.end_clock(op));
        needed
    });
    wanted.reverse();
    wanted
}

/// The fillers among `flags` for which each piece of a kernel waits. An operand that every piece
/// reads makes every piece wait.
fn fillers_by_piece(plan: &Plan, id: OpId, flags: &[OpId]) -> Vec<(u16, Vec<OpId>)> {
    let Some(kernel) = plan.kernel(id) else { return Vec::new() };
    let operands = kernel.operands();
    let mut by_piece = vec![Vec::new(); kernel.pieces()];
    for access in plan.accesses(id) {
        let Some(filler) = access.gate.filter(|filler| flags.contains(filler)) else { continue };
        match operands.get(access.operand as usize).and_then(|operand| operand.piece) {
            Some(piece) => by_piece[piece as usize].push(filler),
            None => by_piece.iter_mut().for_each(|fillers| fillers.push(filler)),
        }
    }
    for fillers in &mut by_piece {
        fillers.sort_unstable();
        fillers.dedup();
    }
    by_piece.into_iter().enumerate().map(|(piece, fillers)| (piece as u16, fillers)).collect()
}

fn emit(plan: &Plan, needs: &Needs) -> Lowered {
    let mut recorded = vec![None; plan.ops.len()];
    let mut raised = vec![None; plan.ops.len()];
    for (_, from) in &needs.waits {
        recorded[from.0 as usize] = Some(EventId(0));
    }
    for (_, _, from) in &needs.gates {
        raised[from.0 as usize] = Some(EventId(0));
    }
    let mut events = 0;
    for event in raised.iter_mut().zip(&mut recorded).flat_map(|(flag, event)| [flag, event]).flatten() {
        *event = EventId(events);
        events += 1;
    }

    let mut streams = vec![Vec::new(); plan.streams.len()];
    let mut waits = needs.waits.iter().peekable();
    for id in plan.op_ids() {
        let commands = &mut streams[plan.op(id).stream.0 as usize];
        while let Some((_, from)) = waits.next_if(|(to, _)| *to == id) {
            commands.extend(recorded[from.0 as usize].map(Command::Wait));
        }
        commands.push(Command::Run(id));
        commands.extend(raised[id.0 as usize].map(Command::Raise));
        commands.extend(recorded[id.0 as usize].map(Command::Record));
    }
    let gate =
        |&(op, piece, from): &(OpId, u16, OpId)| raised[from.0 as usize].map(|flag| GateWait { op, piece, flag });
    Lowered { streams, events, gates: needs.gates.iter().filter_map(gate).collect() }
}
