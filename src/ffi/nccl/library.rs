//! Finding and opening the library.

use std::env::var_os;
use std::ffi::{CStr, OsString};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use super::abi::ncclSuccess;
use super::functions::Functions;
use crate::error::{Error, Result};

/// Names, in the order in which they are tried.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// A file, or a folder that has one of the names; nothing else is tried then.
const PATH: &str = "SEQPAR_NCCL_PATH";
/// The first version with communicators that are split.
const OLDEST: i32 = 21801;
const NEXT_MAJOR: i32 = 30000;

/// NCCL, opened.
pub(crate) struct Library {
    pub(crate) path: PathBuf,
    pub(crate) version: i32,
    pub(crate) functions: Functions,
    // Never closed: NCCL's threads outlive every communicator.
    _library: ManuallyDrop<libloading::Library>,
}

impl Library {
    /// Opens `path` (a file, or a folder that has libnccl.so.2), else what the environment names,
    /// else what the dynamic linker finds.
    ///
    /// # Errors
    /// No such library, or a version that is too old or too new.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let named = path.map(Path::to_path_buf).or_else(|| var_os(PATH).filter(|p| !p.is_empty()).map(PathBuf::from));
        let tried = match &named {
            Some(folder) if folder.is_dir() => NAMES.map(|name| folder.join(name)).to_vec(),
            Some(file) => vec![file.clone()],
            None => NAMES.map(PathBuf::from).to_vec(),
        };
        let mut why = Vec::new();
        for path in tried {
            // SAFETY: opens a library by name; its initialisers are NCCL's.
            match unsafe { libloading::Library::new(OsString::from(&path)) } {
                Ok(library) => return Self::of(path, library),
                Err(error) => {
                    // The linker's own words, which name what it misses.
                    let cause = std::error::Error::source(&error).map_or(error.to_string(), |cause| cause.to_string());
                    why.push(format!("{}: {cause}", path.display()));
                }
            }
        }
        Err(Error::Unsupported(format!(
            "no NCCL: {}; install it (pip: nvidia-nccl-cu13), or name its path by {PATH}",
            why.join("; ")
        )))
    }

    fn of(path: PathBuf, library: libloading::Library) -> Result<Self> {
        // SAFETY: the library was opened as NCCL.
        let functions = unsafe { Functions::of(&library) };
        // From here on it is never closed, not even when it is refused.
        let library = ManuallyDrop::new(library);
        let refused = |why: String| Err(Error::Unsupported(format!("{}: {why}", path.display())));
        let Some(read) = functions.ncclGetVersion else { return refused("has no ncclGetVersion: not NCCL".into()) };
        let mut version = 0;
        // SAFETY: writes one integer.
        let code = unsafe { read(&mut version) };
        if code != ncclSuccess {
            return refused(format!("ncclGetVersion failed with {code}"));
        }
        if !(OLDEST..NEXT_MAJOR).contains(&version) {
            return refused(format!("NCCL {}: 2.18.1 or newer 2.x is needed", version_text(version)));
        }
        Ok(Self { path, version, functions, _library: library })
    }

    /// What NCCL warned of last, in any thread and at any time: a hint beside a code, never a state.
    pub(crate) fn last_words(&self) -> String {
        let Some(read) = self.functions.ncclGetLastError else { return String::new() };
        // SAFETY: the communicator may be null; the result is null or a static buffer that ends in 0
        // whatever another thread is writing to it.
        unsafe {
            let words = read(std::ptr::null_mut());
            if words.is_null() { String::new() } else { CStr::from_ptr(words).to_string_lossy().trim().to_string() }
        }
    }
}

/// A version as people write it. Two digits each since 2.9, one for the minor before.
pub(crate) fn version_text(version: i32) -> String {
    let (major, rest) =
        if version < 10_000 { (version / 1000, version % 1000) } else { (version / 10_000, version % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        for (code, text) in [(2804, "2.8.4"), (21701, "2.17.1"), (22809, "2.28.9"), (23007, "2.30.7")] {
            assert_eq!(version_text(code), text);
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = Library::open(Some(Path::new("/nowhere/libnccl.so.2"))).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("/nowhere/libnccl.so.2")));
    }
}
