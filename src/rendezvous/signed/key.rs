//! The secret that the ranks of a job share, and the nonce that tells jobs apart.
//!
//! A key comes from a file that nobody else may read or from an inherited pipe, never from the
//! command line or the environment, where every process of the machine can read it. It signs
//! (HMAC-SHA256) what ranks say; it hides nothing.
//!
//! Proof: `tests/rendezvous/key.rs`.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};
use crate::rendezvous::store::unusable;

/// Fewest bytes of a key.
pub const KEY_FILE_BYTES_MIN: usize = 16;

const KEY_FILE_BYTES_MAX: usize = 4096;

/// How long a pipe may take to give the key.
const PIPE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) const MAC_BYTES: usize = 32;

/// The secret of a job.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// From bytes that the caller has; at least [`KEY_FILE_BYTES_MIN`] of them.
    ///
    /// # Errors
    /// Too few bytes.
    pub fn from_bytes(secret: &[u8]) -> Result<Self> {
        if secret.len() < KEY_FILE_BYTES_MIN {
            return Err(Error::Data(format!(
                "a key of {} bytes: take at least {KEY_FILE_BYTES_MIN} random ones",
                secret.len()
            )));
        }
        match Hmac::new_from_slice(secret) {
            Ok(hmac) => Ok(Self(hmac)),
            Err(why) => Err(Error::Data(format!("the key: {why}"))),
        }
    }

    /// A new one, for ranks that are threads of one process.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn random() -> Result<Self> {
        Self::from_bytes(&random::<32>()?)
    }

    /// The contents of a file, all of it, that its owner alone may read (mode 0600 or less).
    ///
    /// # Errors
    /// A file that is not there, that others may read, that is too short or longer than 4096 bytes.
    pub fn from_file(path: &Path) -> Result<Self> {
        let said = |why: &dyn fmt::Display| Error::Data(format!("key file {}: {why}", path.display()));
        // A pipe that nobody fills must not hold us.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut file = opened.map_err(|why| said(&why))?;
        let meta = file.metadata().map_err(|why| said(&why))?;
        if meta.is_dir() || !(meta.is_file() || meta.file_type().is_fifo()) {
            return Err(said(&"neither a file nor a pipe"));
        }
        // Without a name, only those who inherit the descriptor can reach it.
        if meta.mode() & 0o077 != 0 && meta.nlink() > 0 {
            return Err(said(&format_args!("others may read it (mode {:o}): chmod 600 it", meta.mode() & 0o777)));
        }
        let (mut secret, deadline) = ([0; KEY_FILE_BYTES_MAX + 1], Instant::now() + PIPE_DEADLINE);
        let mut filled = 0;
        while let Some(rest) = secret.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(why) => return Err(said(&why)),
            }
        }
        match secret.get(..filled) {
            Some(secret) if filled <= KEY_FILE_BYTES_MAX => Self::from_bytes(secret).map_err(|why| said(&why)),
            _ => Err(said(&"longer than 4096 bytes")),
        }
    }

    /// What an inherited descriptor, of a pipe or a file, gives. It stays open.
    ///
    /// # Errors
    /// As [`Key::from_file`].
    pub fn from_descriptor(number: u32) -> Result<Self> {
        Self::from_file(&PathBuf::from(format!("/dev/fd/{number}")))
    }

    /// The nonce of a job from what its launcher calls it; a new key makes it new.
    pub fn nonce(&self, job: &str) -> Nonce {
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&self.sign(&[b"job", job.as_bytes()])[..16]);
        Nonce(nonce)
    }

    /// Signs the parts and where each ends.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.over(parts).finalize().into_bytes().into()
    }

    pub(super) fn verifies(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.over(parts).verify_slice(mac).is_ok()
    }

    /// A key for one purpose.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> Result<Self> {
        Self::from_bytes(&self.sign(parts))
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = self.0.clone();
        for part in parts {
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part);
        }
        hmac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A name that no other job, and no other run of this one, has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A new one.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn random() -> Result<Self> {
        Ok(Self(random()?))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|why| unusable(format!("no random bytes: {why}")))?;
    Ok(bytes)
}
