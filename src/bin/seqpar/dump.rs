//! Plans of a world as text and as JSON: `{"ranks": [...], "law": "ok"}`. What breaks the law is
//! refused before it gets here.

use seqpar::plan::{Checked, Plan, dump};

/// One JSON object.
pub(crate) fn json(plans: &[Checked<Plan>], only: Option<usize>) -> String {
    let ranks: Vec<String> = picked(plans, only).map(dump::json).collect();
    format!("{{\"ranks\":[{}],\"law\":\"ok\"}}", ranks.join(","))
}

/// For people; ends with the verdict of the law.
pub(crate) fn text(plans: &[Checked<Plan>], only: Option<usize>) -> String {
    let ranks: Vec<String> = picked(plans, only).map(dump::text).collect();
    format!("{}\nlaw: ok\n", ranks.join("\n"))
}

fn picked(plans: &[Checked<Plan>], only: Option<usize>) -> impl Iterator<Item = &Checked<Plan>> {
    plans.iter().enumerate().filter(move |(rank, _)| only.is_none_or(|only| only == *rank)).map(|(_, plan)| plan)
}
