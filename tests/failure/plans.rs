//! Plans of one op after another, described so that one rank can be given another description.

use seqpar::dtype::Dtype;
use seqpar::plan::{Builder, CommKind, Direction, Plan, Role, Tag, View};

/// One communication of all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) kind: CommKind,
    pub(crate) rows: usize,
    pub(crate) dtype: Dtype,
    /// Root of a broadcast; distance to the receiver of a send.
    pub(crate) root: usize,
    pub(crate) tag: u32,
}

pub(crate) const KINDS: [CommKind; 6] = [
    CommKind::AllGather,
    CommKind::AllToAll,
    CommKind::ReduceScatter,
    CommKind::AllReduce,
    CommKind::Broadcast,
    CommKind::SendRecv,
];

/// One step of each kind, and the first once more.
pub(crate) fn steps() -> Vec<Step> {
    let step =
        |(i, kind): (usize, &CommKind)| Step { kind: *kind, rows: 4 + i, dtype: Dtype::F32, root: 1, tag: i as u32 };
    let mut steps: Vec<Step> = KINDS.iter().enumerate().map(step).collect();
    steps.push(Step { tag: 6, rows: 12, ..steps[0] });
    steps
}

/// The plan of one rank.
pub(crate) fn plan(rank: usize, world: usize, steps: &[Step]) -> Plan {
    let mut b = Builder::new(rank, world);
    let stream = b.stream("comm");
    let everyone: Vec<usize> = (0..world).collect();
    for (i, step) in steps.iter().enumerate() {
        let (own, out) = (format!("in{i}"), format!("out{i}"));
        let own = b.buffer(own, Role::Input, step.dtype, [world, step.rows, 1, 1], None);
        let out = b.buffer(out, Role::Output, step.dtype, [world, step.rows, 1, 1], None);
        let transfers = transfers(rank, world, step, own, out);
        let label = format!("{} {i}", step.kind.name());
        b.comm(stream, label, step.kind, Tag(step.tag), &everyone, step.dtype, &transfers);
    }
    b.finish()
}

fn transfers(rank: usize, world: usize, step: &Step, own: View, out: View) -> Vec<(Direction, usize, View)> {
    let others = || (0..world).filter(move |&other| other != rank);
    let slot = |view: View, at: usize| view.samples(at..at + 1);
    let send = |to: usize, at: usize| (Direction::Send, to, slot(own, at));
    let recv = |from: usize, at: usize| (Direction::Recv, from, slot(out, at));
    match step.kind {
        CommKind::AllGather => others().map(|r| send(r, rank)).chain(others().map(|r| recv(r, r))).collect(),
        CommKind::AllToAll => others().map(|r| send(r, r)).chain(others().map(|r| recv(r, r))).collect(),
        CommKind::ReduceScatter | CommKind::AllReduce => {
            let sends = (0..world).map(|r| send(r, if step.kind == CommKind::AllReduce { 0 } else { r }));
            sends.chain([recv(rank, 0)]).collect()
        }
        CommKind::Broadcast if rank == step.root => others().map(|r| send(r, 0)).collect(),
        CommKind::Broadcast => vec![recv(step.root, 0)],
        CommKind::SendRecv => {
            let (to, from) = ((rank + step.root) % world, (rank + world - step.root) % world);
            vec![send(to, 0), recv(from, 0)]
        }
    }
}

/// What can differ.
pub(crate) const FIELDS: [&str; 6] = ["kind", "count", "dtype", "root", "peer", "order"];

/// The steps of a rank that differs from the others at `at`; `None` where the op has no such field.
pub(crate) fn differing(steps: &[Step], at: usize, field: &str) -> Option<Vec<Step>> {
    let mut steps = steps.to_vec();
    let step = &mut steps[at];
    match field {
        "kind" => step.kind = KINDS[(at + 1) % KINDS.len()],
        "count" => step.rows += 3,
        "dtype" => step.dtype = Dtype::Bf16,
        "root" if step.kind == CommKind::Broadcast => step.root = 2,
        "peer" if step.kind == CommKind::SendRecv => step.root = 2,
        "order" => steps.swap(at, at + 1),
        _ => return None,
    }
    Some(steps)
}
