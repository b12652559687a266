//! A link between ranks that share a device: two launches around the copy of a message make it
//! last as long as the link says.

use super::Launch;
use super::params::SeqparLink;

pub(super) const THREADS: u32 = 1;

/// A message on a link: what it takes, and where its times stand in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Address of a u32, 0 at first: guards all ports.
    pub lock: u64,
    /// Addresses of u64s, 0 at first: when the sender's port out is free, and the receiver's in.
    pub ports: [u64; 2],
    /// Address of a u64 of this message.
    pub arrival: u64,
    /// Both ports are taken for so long.
    pub transfer_ns: u64,
    /// From the end of the transfer to the arrival.
    pub latency_ns: u64,
    /// Longest wait inside a launch.
    pub timeout_ns: u64,
}

/// The launches of a passage: in front of the message's copy, and behind it. The second ends when
/// the message would have arrived, at the earliest.
pub fn link(passage: &Passage) -> [Launch; 2] {
    let p = SeqparLink {
        lock: passage.lock,
        egress: passage.ports[0],
        ingress: passage.ports[1],
        arrival: passage.arrival,
        transfer_ns: passage.transfer_ns,
        latency_ns: passage.latency_ns,
        timeout_ns: passage.timeout_ns,
    };
    ["link_stamp", "link_hold"].map(|symbol| Launch {
        symbol: symbol.into(),
        grid: [1; 3],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        params: bytemuck::bytes_of(&p).to_vec(),
        maps: Vec::new(),
    })
}
