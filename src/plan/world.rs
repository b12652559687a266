use super::*;
use crate::error::Result;
/// w
pub fn check_world(plans: Vec<Plan>) -> Result<Vec<Checked<Plan>>> {
    let _ = plans;
    unimplemented!()
}
