use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::failure::{Fault, checked};
use super::unique_id::UniqueId;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::ffi::descriptors::closed_on_exec;
use crate::ffi::nccl::functions::Functions;
use crate::ffi::nccl::{self, version_text};

/// NCCL, opened. Clones are the same library.
#[derive(Clone)]
pub struct Library(Arc<nccl::Library>);

/// What a library can do that not every one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// AllToAll as one op (2.28).
    pub all_to_all: bool,
    /// Registered buffers and memory of NCCL's own (2.19).
    pub register: bool,
    /// Windows of symmetric memory (2.27).
    pub windows: bool,
    /// Communicators of the survivors (2.27).
    pub shrink: bool,
    /// Stopping what is in flight without ending the communicator (2.28.9).
    pub revoke: bool,
}

impl Library {
    /// Opens `path` (a file, or a folder that has it), else what `SEQPAR_NCCL_PATH` names, else
    /// libnccl.so.2 or libnccl.so as the dynamic linker finds them. It stays open.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: no such library, or not 2.18.1 or a later 2.x.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        Ok(Self(Arc::new(nccl::Library::open(path)?)))
    }

    /// As NCCL codes it: 22809 is 2.28.9.
    pub fn version(&self) -> i32 {
        self.0.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        let f = self.functions();
        Capabilities {
            all_to_all: f.ncclAlltoAll.is_some(),
            register: f.ncclCommRegister.is_some() && f.ncclCommDeregister.is_some() && f.ncclMemAlloc.is_some(),
            windows: f.ncclCommWindowRegister.is_some() && f.ncclCommWindowDeregister.is_some(),
            shrink: f.ncclCommShrink.is_some(),
            revoke: f.ncclCommRevoke.is_some(),
        }
    }

    /// Identity of a new communicator, made by its rank 0 and carried to the others. NCCL opens a
    /// listening socket for it, which children of this process do not inherit.
    ///
    /// # Errors
    /// What NCCL says: no usable network interface above all.
    pub fn unique_id(&self) -> Result<UniqueId> {
        let begin = Instant::now();
        self.try_unique_id().map_err(|fault| {
            Error::Between(Box::new(Failure {
                kind: fault.kind,
                rank: 0,
                comm: "NCCL".into(),
                seq: None,
                op: String::new(),
                culprits: Vec::new(),
                elapsed_ms: begin.elapsed().as_millis() as u64,
            }))
        })
    }

    fn try_unique_id(&self) -> Result<UniqueId, Fault> {
        let call = self.functions().ncclGetUniqueId.ok_or_else(|| self.missing("ncclGetUniqueId"))?;
        let mut id = UniqueId::zeroed();
        // SAFETY: writes 128 bytes.
        let code = closed_on_exec(|| unsafe { call(id.raw_mut()) });
        checked(self, "ncclGetUniqueId", code).map(|()| id)
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.0.functions
    }

    /// Beside a code, what NCCL warned of last; it may be of something else.
    pub(super) fn last_words(&self) -> String {
        self.0.last_words()
    }

    pub(super) fn missing(&self, function: &str) -> Fault {
        let (version, path) = (version_text(self.version()), self.path().display());
        FailureKind::LibraryMissing { symbol: format!("{function} (NCCL {version}, {path})") }.into()
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Library({}, {})", self.path().display(), version_text(self.version()))
    }
}
