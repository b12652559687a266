//! A store in a folder, for ranks that are processes of this test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seqpar::error::{Error, Failure, FailureKind, Result};
use seqpar::rendezvous::Store;

static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) struct FolderStore(PathBuf);

impl FolderStore {
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self(folder.to_path_buf())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(key.replace('/', "~"))
    }

    fn write(&self, value: &[u8]) -> Result<PathBuf> {
        let name = format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.0.join(name);
        fs::write(&path, value).map_err(failed)?;
        Ok(path)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::Data(error.to_string())
}

impl Store for FolderStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        fs::rename(self.write(value)?, self.path(key)).map_err(failed)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(key)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(value) = self.read(key)? {
                return Ok(value);
            }
            if Instant::now() > deadline {
                let kind = FailureKind::Timeout { stage: format!("nobody set {key}") };
                return Err(Error::Between(Box::new(Failure {
                    kind,
                    rank: 0,
                    comm: "store".into(),
                    seq: None,
                    op: String::new(),
                    culprits: Vec::new(),
                    elapsed_ms: 0,
                })));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        let own = self.write(value)?;
        // A link is made or not: the first one wins.
        let linked = fs::hard_link(&own, self.path(key));
        fs::remove_file(own).map_err(failed)?;
        match linked {
            Ok(()) => Ok(value.to_vec()),
            Err(_) => self.read(key)?.ok_or_else(|| Error::Data(format!("{key} cannot be claimed"))),
        }
    }
}
