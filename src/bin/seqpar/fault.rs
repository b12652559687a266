//! Why a command stopped, and with which exit code.

use std::fmt;

/// Result of everything in this program.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Why a command stopped. The text is one line and says what to change.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A file, or something in it, that cannot be used.
    Data(String),
    /// A flag that cannot be used.
    Usage(String),
    /// The reader of stdout went away, as `head` does: nothing is left to say.
    ClosedPipe,
}

impl Fault {
    /// A complaint about a file.
    pub(crate) fn file(path: &std::path::Path, why: impl fmt::Display) -> Self {
        Self::Data(format!("{}: {why}", path.display()))
    }

    /// 1 for bad data, 2 for bad usage.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Data(_) => 1,
            Self::Usage(_) => 2,
            Self::ClosedPipe => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(why) | Self::Usage(why) => {
                let words: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                // A hostile file may have tensor names that would drive a terminal.
                f.write_str(&words.join("; ").replace(char::is_control, "\u{fffd}"))
            }
            Self::ClosedPipe => f.write_str("stdout was closed"),
        }
    }
}

impl From<seqpar::Error> for Fault {
    /// Meshes, splits and strategies come from flags, everything else from files.
    fn from(error: seqpar::Error) -> Self {
        use seqpar::Error::{Mesh, Shard, Unsupported};
        match error {
            Mesh(_) | Shard(_) | Unsupported(_) => Self::Usage(error.to_string()),
            _ => Self::Data(error.to_string()),
        }
    }
}
