//! What communicators that were split from one another share: the first failure of any.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::failure::Fault;
use crate::error::{Failure, FailureKind};

/// Told once.
type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
pub(super) struct Family {
    first: OnceLock<Failure>,
    stuck: OnceLock<Failure>,
    listeners: Mutex<Vec<Listener>>,
    told: OnceLock<()>,
}

impl Family {
    /// Keeps the first failure. Whoever aborts poisons before: when this returns, the listeners know,
    /// and nothing was aborted before they did.
    pub(super) fn poison(&self, failure: &Failure) {
        let _ = self.first.set(failure.clone());
        self.told.get_or_init(|| self.listeners().iter().for_each(|listener| listener()));
    }

    /// Has `listener` told of the first failure, before anything is aborted.
    pub(super) fn listen(&self, listener: Listener) {
        self.listeners().push(listener);
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
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
