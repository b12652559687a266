use super::Plan;
use crate::error::Result;

/// A plan that obeys the law.
pub struct Checked<T>(T);
/// check
pub fn check(plan: Plan) -> Result<Checked<Plan>> {
    let _ = plan;
    unimplemented!()
}
