//! What a rank says of itself before anything else: 320 bytes, little-endian.
//!
//! | at | what | at | what |
//! |---|---|---|---|
//! | 0 | `SEQPARHI` | 64 | device [16] |
//! | 8 | protocol u32 | 80 | host's boot [16] |
//! | 12 | rank u32, world u32 | 96 | crate version [24], zeros after it |
//! | 20 | NCCL version i32 | 120 | host name [64], zeros after it |
//! | 24 | pid u32, flags u32 | 184 | plans u32, zero u32 |
//! | 32 | nonce [16], instance [16] | 192 | hash of each plan [16 x u64] |
//!
//! Magic and protocol keep their places in every version.

use super::host::Host;
use super::key::{Nonce, random};
use crate::error::{Error, Result};

/// Version of what ranks say to each other before they run.
pub const PROTOCOL: u32 = 1;

/// Most ranks of a world.
pub const WORLD_MAX: usize = 1 << 16;

/// Most plans that a hello announces.
pub const PLANS_MAX: usize = 16;

/// Length of an encoded hello.
pub const HELLO_BYTES: usize = 320;

const MAGIC: &[u8; 8] = b"SEQPARHI";
const HAS_DEVICE: u32 = 1;
const SHARES_DEVICE: u32 = 2;

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the hello and of what follows it: [`PROTOCOL`].
    pub protocol: u32,
    /// This rank.
    pub rank: usize,
    /// Ranks in all.
    pub world: usize,
    /// Name of the job.
    pub nonce: Nonce,
    /// Version of this crate, at most 24 bytes.
    pub crate_version: String,
    /// What `ncclGetVersion` says; 0 where NCCL is not used.
    pub nccl_version: i32,
    /// Hashes of what all ranks together will run, the same list on every rank; at most [`PLANS_MAX`].
    pub plans: Vec<u64>,
    /// UUID of this rank's device.
    pub device: Option<[u8; 16]>,
    /// This rank does not mind another one on its device.
    pub shares_device: bool,
    /// The machine.
    pub host: Host,
    /// The process.
    pub pid: u32,
    /// Tells two processes apart that claim one rank.
    pub(super) instance: [u8; 16],
}

impl Hello {
    /// This process as a rank of a job: this crate, this host, no device, no NCCL, no plan.
    ///
    /// # Errors
    /// A rank that is not below the world, a world above [`WORLD_MAX`], a system without randomness.
    pub fn new(rank: usize, world: usize, nonce: Nonce) -> Result<Self> {
        let hello = Self {
            protocol: PROTOCOL,
            rank,
            world,
            nonce,
            crate_version: env!("CARGO_PKG_VERSION").into(),
            nccl_version: 0,
            plans: Vec::new(),
            device: None,
            shares_device: false,
            host: Host::this(),
            pid: std::process::id(),
            instance: random()?,
        };
        hello.check()?;
        Ok(hello)
    }

    /// Refuses what cannot be said.
    pub(super) fn check(&self) -> Result<()> {
        if self.world == 0 || self.world > WORLD_MAX || self.rank >= self.world {
            let (rank, world) = (self.rank, self.world);
            return Err(Error::Mesh(format!(
                "rank {rank} of {world}: the world is 1 to {WORLD_MAX}, the rank below it"
            )));
        }
        if self.plans.len() > PLANS_MAX {
            let plans = self.plans.len();
            return Err(Error::Unsupported(format!(
                "{plans} plans in a hello: at most {PLANS_MAX}, hash several into one"
            )));
        }
        Ok(())
    }

    /// Its [`HELLO_BYTES`] bytes; names that are too long are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_BYTES);
        out.extend(MAGIC);
        out.extend(self.protocol.to_le_bytes());
        out.extend((self.rank as u32).to_le_bytes());
        out.extend((self.world as u32).to_le_bytes());
        out.extend(self.nccl_version.to_le_bytes());
        out.extend(self.pid.to_le_bytes());
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(self.device.is_some(), HAS_DEVICE) | flag(self.shares_device, SHARES_DEVICE);
        out.extend(flags.to_le_bytes());
        out.extend(self.nonce.0);
        out.extend(self.instance);
        out.extend(self.device.unwrap_or_default());
        out.extend(self.host.boot);
        text(&mut out, &self.crate_version, 24);
        text(&mut out, &self.host.name, 64);
        out.extend((self.plans.len().min(PLANS_MAX) as u32).to_le_bytes());
        out.extend([0; 4]);
        for i in 0..PLANS_MAX {
            out.extend(self.plans.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        out
    }

    /// Reads a hello of `protocol`, which is [`PROTOCOL`]. One of another gives that alone.
    pub fn decode(bytes: &[u8], protocol: u32) -> Decoded {
        let mut from = Reader(bytes);
        if from.take::<8>().as_ref() != Some(MAGIC) {
            return Decoded::Garbage;
        }
        match from.u32() {
            None => Decoded::Garbage,
            Some(other) if other != protocol => Decoded::OtherProtocol(other),
            Some(_) if bytes.len() != HELLO_BYTES => Decoded::Garbage,
            Some(_) => match Self::fields(protocol, &mut from) {
                Some(hello) if hello.check().is_ok() => Decoded::Hello(Box::new(hello)),
                _ => Decoded::Garbage,
            },
        }
    }

    fn fields(protocol: u32, from: &mut Reader<'_>) -> Option<Self> {
        let (rank, world) = (from.u32()? as usize, from.u32()? as usize);
        let nccl_version = i32::from_le_bytes(from.take()?);
        let (pid, flags) = (from.u32()?, from.u32()?);
        let (nonce, instance) = (Nonce(from.take()?), from.take()?);
        let (device, boot) = (from.take()?, from.take()?);
        let (crate_version, name) = (from.text::<24>()?, from.text::<64>()?);
        let plans = (from.u32()? as usize, from.u32()?).0;
        if plans > PLANS_MAX {
            return None;
        }
        let plans = (0..plans).map(|_| from.take().map(u64::from_le_bytes)).collect::<Option<_>>()?;
        Some(Self {
            protocol,
            rank,
            world,
            nonce,
            crate_version,
            nccl_version,
            plans,
            device: (flags & HAS_DEVICE != 0).then_some(device),
            shares_device: flags & SHARES_DEVICE != 0,
            host: Host { name, boot },
            pid,
            instance,
        })
    }
}

/// What bytes that should be a hello are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// One.
    Hello(Box<Hello>),
    /// One of another version of the protocol.
    OtherProtocol(u32),
    /// None.
    Garbage,
}

/// Takes values off the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn text<const N: usize>(&mut self) -> Option<String> {
        let bytes = self.take::<N>()?;
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(N);
        std::str::from_utf8(bytes.get(..end)?).ok().map(String::from)
    }
}

fn text(out: &mut Vec<u8>, text: &str, bytes: usize) {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend(text.as_bytes().iter().take(end));
    out.extend(std::iter::repeat_n(0, bytes - end));
}
