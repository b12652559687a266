//! What communicators that were split from one another share: the first failure of any.

use std::sync::OnceLock;

use super::failure::Fault;
use crate::error::{Failure, FailureKind};

#[derive(Default)]
pub(super) struct Family {
    first: OnceLock<Failure>,
    stuck: OnceLock<Failure>,
}

impl Family {
    /// Keeps the first failure.
    pub(super) fn poison(&self, failure: &Failure) {
        let _ = self.first.set(failure.clone());
    }

    /// What a call says that comes after the first failure.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let Some(first) = self.first.get() else { return Ok(()) };
        let kind = FailureKind::Poisoned { first_cause: first.to_string() };
        Err(Fault { kind, culprits: first.culprits.clone() })
    }

    /// What a call says during which the family was poisoned by another thread.
    pub(super) fn interrupted(&self) -> Fault {
        match self.first.get() {
            Some(first) if matches!(first.kind, FailureKind::Aborted { .. }) => {
                Fault { kind: first.kind.clone(), culprits: first.culprits.clone() }
            }
            _ => self.check().err().unwrap_or_else(|| FailureKind::Aborted { by: "its end".into() }.into()),
        }
    }

    /// Marks that only the end of the process helps.
    pub(super) fn mark_stuck(&self, failure: Failure) {
        log::error!("{failure}");
        self.poison(&failure);
        let _ = self.stuck.set(failure);
    }

    pub(super) fn stuck(&self) -> Option<&Failure> {
        self.stuck.get()
    }
}
