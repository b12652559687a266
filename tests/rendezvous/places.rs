//! Where ranks of a test meet.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use seqpar::error::Result;
use seqpar::rendezvous::{FileStore, Key, MemoryStore, Store, TcpOptions, TcpStore};

use crate::file::folder;
use crate::ranks::{D, How};

/// Where the ranks meet.
#[derive(Clone)]
pub enum Place {
    Memory(Arc<MemoryStore>),
    File(PathBuf),
    /// Rank 0 serves there.
    Tcp(String),
    /// Rank 0 has been serving there.
    Served(Arc<dyn Store>, String),
    #[cfg(feature = "torchrun")]
    Torch(String),
}

/// The kinds of place in a build, each new; processes cannot share memory.
pub fn places(how: How) -> Vec<Place> {
    let mut all = Vec::new();
    if how == How::Threads {
        all.push(Place::Memory(Arc::default()));
    }
    all.extend([Place::File(folder()), Place::Tcp(free_address())]);
    #[cfg(feature = "torchrun")]
    all.push(Place::Torch(crate::torch::server()));
    all
}

/// An address that nobody listens on. It lies below the ports that systems hand out, since tests
/// beside this one are handed many, and is drawn at random, since others draw too.
pub fn free_address() -> String {
    let draw = |i: u32| 12_000 + (RandomState::new().hash_one((std::process::id(), i)) % 20_000) as u16;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    format!("127.0.0.1:{}", (0..100).map(draw).find(free).unwrap())
}

impl Place {
    pub fn open(&self, rank: usize, key: &Key, deadline: Instant) -> Result<Arc<dyn Store>> {
        let options = TcpOptions { answer_within: D, ..TcpOptions::default() };
        Ok(match self {
            Self::Memory(store) => store.clone(),
            Self::File(folder) => Arc::new(FileStore::open(folder, "job")?),
            Self::Tcp(address) if rank == 0 => {
                let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
                Arc::new(TcpStore::serve(key, &TcpOptions { port, ..options })?)
            }
            Self::Served(store, _) if rank == 0 => store.clone(),
            Self::Tcp(address) | Self::Served(_, address) => {
                Arc::new(TcpStore::connect(address, rank, key, &options, deadline)?)
            }
            #[cfg(feature = "torchrun")]
            Self::Torch(address) => Arc::new(seqpar::rendezvous::TorchStore::connect(address, deadline)?),
        })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::File(_) => "file",
            Self::Tcp(_) | Self::Served(..) => "tcp",
            #[cfg(feature = "torchrun")]
            Self::Torch(_) => "torch",
        }
    }

    pub fn words(&self) -> String {
        match self {
            Self::Memory(_) | Self::Served(..) => panic!("processes share no memory"),
            Self::File(folder) => format!("file {}", folder.display()),
            Self::Tcp(address) => format!("tcp {address}"),
            #[cfg(feature = "torchrun")]
            Self::Torch(address) => format!("torch {address}"),
        }
    }

    pub fn from_words(words: &str) -> Self {
        match words.split_once(' ').unwrap() {
            ("file", folder) => Self::File(folder.into()),
            ("tcp", address) => Self::Tcp(address.into()),
            #[cfg(feature = "torchrun")]
            ("torch", address) => Self::Torch(address.into()),
            other => panic!("{other:?}"),
        }
    }
}
