use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abort::AbortHandle;
use super::config::{Config, RawConfig};
use super::failure::{Fault, checked};
use super::family::Family;
use super::group::Call;
use super::library::Library;
use super::member::{Member, function};
use super::status::Status;
use super::unique_id::UniqueId;
use crate::error::{Error, FailureKind, Result};
use crate::ffi::descriptors::closed_on_exec;
use crate::ffi::nccl::abi::*;
use crate::rendezvous::until;

/// One rank's end of a communicator, owned by that rank's thread. Dropping it cuts off what is in
/// flight, behind the caller's back; [`Communicator::finalize`] is the good end.
pub struct Communicator {
    pub(super) member: Arc<Member>,
    /// Kept for their capacity.
    pub(super) calls: Vec<Call>,
    pub(super) next_seq: u64,
    pub(super) op_deadline: Duration,
    /// Shares resources with its family, so its end is theirs.
    pub(super) shares: bool,
    _not_sync: PhantomData<Cell<()>>,
}

impl Communicator {
    /// Joins the communicator `id` as `rank` of `world`. All ranks call it, each with its device's
    /// context current; returns when all have come.
    ///
    /// # Errors
    /// At the deadline [`FailureKind::Timeout`]; [`FailureKind::NoDriver`],
    /// [`FailureKind::DeviceConflict`], [`FailureKind::VersionSkew`], and what else NCCL says. What
    /// was begun is aborted before, which may take the reaper's deadline more.
    pub fn new(
        library: &Library,
        id: &UniqueId,
        rank: usize,
        world: usize,
        config: &Config,
        deadline: Duration,
    ) -> Result<Self> {
        let (Ok(c_rank), Ok(c_world), true) = (c_int::try_from(rank), c_int::try_from(world), rank < world) else {
            return Err(Error::Mesh(format!(
                "rank {rank} of {world} ranks: ranks are 0 to one less than their number"
            )));
        };
        let RawConfig { config: mut raw, strings } = config.raw()?;
        let member = Member {
            library: library.clone(),
            handle: Default::default(),
            family: Arc::new(Family::default()),
            status: Arc::new(Status::new(config.name.clone(), rank, world)),
            reaper_deadline: config.reaper_deadline,
            _strings: strings,
        };
        // Dropped on any failure, which aborts what NCCL has begun.
        let this = Self::of(member, config, config.shares());
        let init = || {
            let until = until(deadline);
            this.member.complete()?;
            let init = function!(library, ncclCommInitRankConfig)?;
            let mut comm = std::ptr::null_mut();
            // SAFETY: a valid config that lives until the call returns, with strings that the
            // member keeps; writes one handle.
            let code = unsafe { init(&mut comm, c_world, id.raw(), c_rank, &mut raw) };
            if !comm.is_null() {
                this.member.handle.set(comm);
            }
            checked(library, "ncclCommInitRankConfig", code)?;
            if comm.is_null() {
                let why = format!("gave no communicator and {code}");
                return Err(FailureKind::Library { call: "ncclCommInitRankConfig", code, why }.into());
            }
            this.member.settle(&format!("ncclCommInitRankConfig of {world} ranks"), until)
        };
        match this.member.attempt("init", None, || closed_on_exec(init)) {
            Ok(()) => Ok(this),
            Err(error) => {
                // While the caller's context is there; the drop would do it behind the caller's back.
                // What does not return marks the family, and the first failure is the one to tell.
                let _ = this.member.abort();
                Err(error)
            }
        }
    }

    pub(super) fn of(member: Member, config: &Config, shares: bool) -> Self {
        Self {
            member: Arc::new(member),
            calls: Vec::new(),
            next_seq: 0,
            op_deadline: config.op_deadline,
            shares,
            _not_sync: PhantomData,
        }
    }

    /// This rank in the communicator.
    pub fn rank(&self) -> usize {
        self.member.status.rank()
    }

    /// Ranks in the communicator.
    pub fn world(&self) -> usize {
        self.member.status.world()
    }

    /// The library.
    pub fn library(&self) -> &Library {
        &self.member.library
    }

    /// What it did last, for other threads to read.
    pub fn status(&self) -> &Arc<Status> {
        &self.member.status
    }

    /// What NCCL's threads have met, at the op that was issued last.
    ///
    /// # Errors
    /// A failure, which poisons the family; later that it is poisoned.
    pub fn async_error(&self) -> Result<()> {
        self.abort_handle().async_error()
    }

    /// Has `listener` called once, at the first failure of this communicator or one of its family, on
    /// whatever thread that is, and before anything in flight is aborted for it. It must not block,
    /// and must not call the family.
    pub fn at_failure(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.member.family.listen(Box::new(listener));
    }

    /// For a watchdog or another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { member: self.member.clone() }
    }

    /// Stops what is in flight and keeps the communicator, so that [`Communicator::shrink`] can
    /// make one of the survivors. The family is poisoned.
    ///
    /// # Errors
    /// A library without it (before 2.28.9), [`FailureKind::Timeout`], and what NCCL says.
    pub fn revoke(&mut self, by: &str, deadline: Duration) -> Result<()> {
        let member = &self.member;
        // Revoking is of use on a family that is poisoned.
        let revoke = || {
            let call = function!(member.library, ncclCommRevoke)?;
            let inside = member.enter_poisoned()?;
            // SAFETY: inside with a live handle; 0 is the one allowed flag.
            checked(&member.library, "ncclCommRevoke", unsafe { call(inside.comm, NCCL_REVOKE_DEFAULT) })?;
            drop(inside);
            member.settle_poisoned("ncclCommRevoke", until(deadline))
        };
        let begin = Instant::now();
        revoke().map_err(|fault| member.error(fault, "revoke", None, begin))?;
        let fault = Fault::from(FailureKind::Aborted { by: by.into() });
        member.family.poison(&member.failure_at_last_op(fault));
        Ok(())
    }

    /// Waits until what was issued is done, on all ranks, and ends the communicator; aborts it at
    /// the deadline, or where the family is poisoned. When this returns it has ended, by whomever,
    /// unless something of the family is [`FailureKind::Unrecoverable`]. All ranks call it.
    ///
    /// # Errors
    /// [`FailureKind::Timeout`], what NCCL says, and [`FailureKind::Unrecoverable`] when neither
    /// this end nor the abort returns.
    pub fn finalize(self, deadline: Duration) -> Result<()> {
        let ended = self.member.attempt("finalize", None, || self.member.finalize(deadline));
        match ended {
            // Who is told of an end may release what NCCL used, so the end that somebody began is waited for.
            Err(error) if self.member.family.stuck().is_none() => Err(self.member.abort().err().unwrap_or(error)),
            ended => ended,
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if self.shares && !self.abort_handle().has_ended() {
            let fault = Fault::from(FailureKind::Aborted { by: "drop of a communicator that shares resources".into() });
            self.member.family.poison(&self.member.failure_at_last_op(fault));
        }
        self.member.abort_behind();
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.status();
        write!(f, "Communicator({}, rank {} of {})", status.comm(), status.rank(), status.world())
    }
}
