//! Which ranks of this host still live, without asking them.
//!
//! A rank holds a lock on a file of a folder that all ranks of the host see; the system gives the
//! lock back when the process ends, however it ends. A process that forked without exec leaves
//! its lock to its child, so that the file also names the process, with its start time. A rank of
//! another host, or one that has no file yet, is neither alive nor gone. A stopped process lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::comm::process::start_of_living;
use crate::error::{Error, Result};

/// What is known of a rank's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It lives, running or stopped.
    Alive,
    /// It has ended; how that is known.
    Gone(String),
    /// Nothing.
    Unknown,
}

/// This rank's lock; giving it up says that the process has ended.
#[derive(Debug)]
pub struct Presence {
    folder: PathBuf,
    file: File,
}

/// How long to wait for those who look whether the lock is free.
const PATIENCE: Duration = Duration::from_secs(1);

impl Presence {
    /// Takes the lock of `rank` in a folder of this job's own.
    ///
    /// # Errors
    /// A folder that cannot be written, and a rank whose lock another process holds.
    pub fn hold(folder: &Path, rank: usize) -> Result<Self> {
        let path = path(folder, rank);
        let refuse =
            |why: String| Error::Data(format!("{}: cannot hold the lock of rank {rank}: {why}", path.display()));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|error| refuse(error.to_string()))?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Others look at the lock for an instant; a process keeps it.
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => return Err(refuse("another process has it".into())),
                Err(TryLockError::Error(error)) => return Err(refuse(error.to_string())),
            }
        }
        let text = format!("{}\n{}\n{}\n", host(), process_space(), process(std::process::id()).unwrap_or_default());
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| refuse(error.to_string()))?;
        Ok(Self { folder: folder.to_path_buf(), file })
    }

    /// Looks at the processes of other ranks.
    pub fn observer(&self) -> impl FnMut(usize) -> Life + Send + 'static {
        let folder = self.folder.clone();
        let mut files: Vec<Option<File>> = Vec::new();
        move |rank| {
            if files.len() <= rank {
                files.resize_with(rank + 1, || None);
            }
            let file = match &mut files[rank] {
                Some(file) => file,
                slot => match File::open(path(&folder, rank)) {
                    Ok(file) => slot.insert(file),
                    Err(_) => return Life::Unknown,
                },
            };
            look(file)
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Closing would do; a copy of the descriptor in a forked child must not keep it.
        let _ = self.file.unlock();
    }
}

fn path(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.alive"))
}

fn look(file: &mut File) -> Life {
    let mut text = String::new();
    if file.rewind().and_then(|()| file.read_to_string(&mut text)).is_err() {
        return Life::Unknown;
    }
    let mut lines = text.lines();
    let (Some(of_host), Some(space), Some(named)) = (lines.next(), lines.next(), lines.next()) else {
        return Life::Unknown;
    };
    if of_host != host() {
        return Life::Unknown;
    }
    if file.try_lock_shared().is_ok() {
        let _ = file.unlock();
        return Life::Gone("its process has ended".into());
    }
    let number = named.split(' ').next().and_then(|pid| pid.parse::<u32>().ok());
    if let Some(pid) = number.filter(|_| !space.is_empty() && space == process_space())
        && process(pid).as_deref() != Some(named)
    {
        return Life::Gone(format!("its process {pid} has ended"));
    }
    Life::Alive
}

/// This boot of this machine; empty where the system does not say.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// The space in which process numbers mean something.
fn process_space() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// `PID START` of a process that has not ended.
fn process(pid: u32) -> Option<String> {
    Some(format!("{pid} {}", start_of_living(pid)?))
}
