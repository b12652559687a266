//! The law on one rank: [`check`] a plan, [`check_lowered`] what it was lowered to.
//!
//! Refuses, with an error that names the op, every plan that breaks a rule of [`super`]. Assumes
//! nothing of the plan: ids out of range are refused, not indexed. What ranks owe each other is
//! in [`super::check_world`]. Each rule and its mutation: `tests/law.rs`.

use std::ops::Deref;

use super::edges::{Edge, derive};
use super::lower::{Gates, Lowered, lower_edges};
use super::memory::{Memory, check_memory, place};
use super::order::HappensBefore;
use super::{Plan, comms, gates, operands, replay, rules};
use crate::error::Result;

/// A plan that obeys the law, with what the check derived from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked<T> {
    inner: T,
    edges: Vec<Edge>,
    order: HappensBefore,
    memory: Memory,
}

impl<T> Checked<T> {
    /// Gives up the proof.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl Checked<Plan> {
    /// The derived dependencies, sorted by the later op.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Happens-before, with gates as flags.
    pub fn order(&self) -> &HappensBefore {
        &self.order
    }

    /// Where the temporaries lie.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The commands of every stream.
    pub fn lowered(&self, gates: Gates) -> Lowered {
        lower_edges(&self.inner, &self.edges, gates)
    }
}

/// Holds the plan of one rank to the law, its memory plan and its lowered forms included.
///
/// # Errors
/// [`crate::Error::Law`] with the op, the rule and what to change.
pub fn check(plan: Plan) -> Result<Checked<Plan>> {
    rules::well_formed(&plan)?;
    operands::check(&plan)?;
    comms::check(&plan)?;
    rules::aliasing(&plan)?;
    rules::coverage(&plan)?;
    gates::fillers(&plan)?;
    let edges = derive(&plan);
    let order = HappensBefore::derived(&plan, &edges);
    gates::need_no_kernel(&plan, &order)?;
    let memory = place(&plan, &order);
    check_memory(&plan, &order, &memory)?;
    replay::check(&plan, &edges, &lower_edges(&plan, &edges, Gates::Flags))?;
    if edges.iter().any(|edge| edge.gate) {
        replay::check(&plan, &edges, &lower_edges(&plan, &edges, Gates::Events))?;
    }
    Ok(Checked { inner: plan, edges, order, memory })
}

/// Holds a lowered plan to the law: every op runs once, on its stream, in plan order; every wait
/// meets a record, every gate a flag; the order that the commands alone imply keeps every derived
/// edge.
///
/// # Errors
/// [`crate::Error::Law`] with the op and the one it no longer waits for.
pub fn check_lowered(plan: &Plan, lowered: &Lowered) -> Result<()> {
    rules::well_formed(plan)?;
    gates::fillers(plan)?;
    replay::check(plan, &derive(plan), lowered)
}

impl From<Checked<Plan>> for Plan {
    fn from(checked: Checked<Plan>) -> Plan {
        checked.into_inner()
    }
}
