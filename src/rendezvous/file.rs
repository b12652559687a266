//! A store in a folder that all ranks can reach.
//!
//! A value is a file: written under a temporary name, then renamed (`set`) or linked (`claim`) to
//! its own, so that a reader sees all of it or nothing, and of several claims one wins. The files
//! stand in a subfolder named after the job's generation, so those of a killed job are not seen.
//!
//! Folders have mode 0700, files 0600; a folder that others can enter is refused. What NFS keeps in
//! its caches is not relied on: every read opens the file anew, and a file that is not found is
//! looked for once more after the folder has been opened, which makes the client ask its server.
//! Assumes a file system that answers: one that hangs holds its callers, so a watchdog asks from a
//! thread of its own. A process that is killed may leave a temporary file, which nobody reads.
//!
//! Proof: `tests/rendezvous/file.rs`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::store::{Store, VALUE_BYTES_MAX, check, polled, unusable};
use crate::error::Result;

/// A store in a shared folder.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    /// Tells temporary files of this process from those of others, on any host.
    own: u64,
    written: AtomicU64,
}

impl FileStore {
    /// Opens or makes `folder` and in it the subfolder of `generation`: letters, digits, `-`, `_`
    /// and `.`, the same on all ranks of the job and different from every earlier job's.
    ///
    /// # Errors
    /// A folder that cannot be made or written, or that others may enter.
    pub fn open(folder: &Path, generation: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if generation.is_empty()
            || generation.len() > 100
            || generation.starts_with('.')
            || !generation.bytes().all(plain)
        {
            return Err(unusable(format!(
                "generation {generation:?}: take 1 to 100 letters, digits, '-', '_' or '.', the first not '.'"
            )));
        }
        private_folder(folder)?;
        let folder = folder.join(generation);
        private_folder(&folder)?;
        let store = Self { folder, own: RandomState::new().hash_one(std::process::id()), written: AtomicU64::new(0) };
        // Found out now and not when a rank has already announced itself.
        let trial = store.write(b"", true)?;
        let owners = trial.metadata().and_then(|trial| Ok((trial.uid(), fs::metadata(&store.folder)?.uid())));
        match owners {
            Ok((ours, theirs)) if ours != theirs => Err(unusable(format!(
                "{} belongs to user {theirs}, not to {ours}: take another folder",
                store.folder.display()
            ))),
            Ok(_) => Ok(store),
            Err(why) => Err(unusable(format!("{}: {why}", store.folder.display()))),
        }
    }

    /// Deletes this generation: for the last rank that needs it.
    ///
    /// # Errors
    /// Files that cannot be deleted.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|why| unusable(format!("{}: {why}", self.folder.display())))
    }

    /// Writes a temporary file; it goes when the value is dropped. A network disk may say that it is
    /// full only when it is synced; that costs a disk's time, so not where a value comes many times
    /// a second.
    fn write(&self, value: &[u8], synced: bool) -> Result<Temporary> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".{:016x}.{}.{number}", self.own, std::process::id()));
        let said = |why| unusable(format!("{}: {why}; free it or take another folder", self.folder.display()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(said)?;
        let temporary = Temporary(path);
        file.write_all(value).map_err(said)?;
        if synced {
            file.sync_data().map_err(said)?;
        }
        Ok(temporary)
    }

    fn path(&self, key: &str) -> PathBuf {
        let mut name = String::with_capacity(key.len() + 16);
        for byte in key.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("%{byte:02x}"));
            }
        }
        self.folder.join(name)
    }

    fn contents(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(key);
        let said = |why| unusable(format!("{}: {why}", path.display()));
        let file = match File::open(&path) {
            Err(why) if why.kind() == ErrorKind::NotFound => {
                let folder = File::open(&self.folder).and_then(|folder| folder.metadata());
                folder.map_err(|why| unusable(format!("{}: {why}", self.folder.display())))?;
                match File::open(&path) {
                    Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
                    other => other.map_err(said)?,
                }
            }
            other => other.map_err(said)?,
        };
        let meta = file.metadata().map_err(said)?;
        if !meta.is_file() || meta.len() > VALUE_BYTES_MAX as u64 {
            return Err(unusable(format!("{} is not a value of this store: delete it", path.display())));
        }
        let mut value = Vec::with_capacity(meta.len() as usize);
        file.take(VALUE_BYTES_MAX as u64).read_to_end(&mut value).map_err(said)?;
        Ok(Some(value))
    }
}

impl Store for FileStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        check(key, value)?;
        let (temporary, path) = (self.write(value, false)?, self.path(key));
        fs::rename(&temporary.0, &path).map_err(|why| unusable(format!("{}: {why}", path.display())))
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check(key, &[])?;
        self.contents(key)
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        check(key, &[])?;
        polled(key, deadline, || self.contents(key))
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        check(key, value)?;
        if let Some(there) = self.contents(key)? {
            return Ok(there);
        }
        let (temporary, path) = (self.write(value, true)?, self.path(key));
        let linked = fs::hard_link(&temporary.0, &path);
        // A server's lost answer makes a link that was made look like one that failed.
        if linked.is_ok() || temporary.metadata().is_ok_and(|meta| meta.nlink() == 2) {
            return Ok(value.to_vec());
        }
        match (self.contents(key)?, linked) {
            (Some(there), _) => Ok(there),
            (None, Err(why)) => {
                Err(unusable(format!("{}: {why}; take a folder on a file system with hard links", path.display())))
            }
            (None, Ok(())) => Ok(value.to_vec()),
        }
    }
}

struct Temporary(PathBuf);

impl Temporary {
    fn metadata(&self) -> std::io::Result<fs::Metadata> {
        fs::metadata(&self.0)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A renamed file is no longer there, and one that cannot be deleted harms nobody.
        let _ = fs::remove_file(&self.0);
    }
}

fn private_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    let meta = match fs::symlink_metadata(folder) {
        Ok(meta) => meta,
        Err(why) => return Err(unusable(format!("{}: {}", folder.display(), made.err().unwrap_or(why)))),
    };
    if !meta.is_dir() {
        return Err(unusable(format!("{} is not a folder: take another name", folder.display())));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(unusable(format!("others may enter {} (mode {mode:o}): chmod 700 it", folder.display())));
    }
    Ok(())
}
