//! Plans of a world as text and as JSON.

use seqpar::plan::{Checked, Plan};

use crate::fault::Result;

pub(crate) fn json(plans: &[Checked<Plan>], only: Option<usize>) -> Result<String> {
    let _ = (plans, only);
    Ok(String::new())
}

pub(crate) fn text(plans: &[Checked<Plan>], only: Option<usize>) -> String {
    let _ = (plans, only);
    String::new()
}
