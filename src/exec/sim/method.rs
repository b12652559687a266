//! How a GPU machine moves the bytes of one communication: which protocol, after what latency,
//! at what rate at most, and with how many SMs.
//!
//! Ring collectives as NCCL's tuner sees them (`src/graph/tuning.cc`, tag v2.28.9): base latency,
//! steps times hop, bytes over the protocol's rate; the fastest of LL, LL128 and Simple. Sends and
//! receives: a staircase of channels. All-to-all: sends to every peer at once. All-reduce inside a
//! switch where that is faster. Copy engines move all that is not summed, on request.
//! Trees and multi-rail routes are left out. Closed forms: `tests/sim_collectives.rs`.

use super::Transport;
use super::machine::{Gpu, Link, Protocol};
use crate::plan::CommKind;

/// Where the ranks of a group stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) ranks: usize,
    pub(super) nodes: usize,
    /// Ranks of the group on a node, the fewest.
    pub(super) on_node: usize,
}

impl Layout {
    /// Ranks are numbered node by node; `ranks` ascend.
    pub(super) fn of(gpu: &Gpu, ranks: &[u32]) -> Self {
        let node = |rank: &u32| *rank as usize / gpu.node_ranks;
        let (mut nodes, mut fewest, mut run) = (0, usize::MAX, 0);
        for (i, rank) in ranks.iter().enumerate() {
            run += 1;
            if ranks.get(i + 1).is_none_or(|next| node(next) != node(rank)) {
                nodes += 1;
                fewest = fewest.min(run);
                run = 0;
            }
        }
        Self { ranks: ranks.len(), nodes, on_node: fewest }
    }
}

/// How the bytes of one communication move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Method {
    /// Seconds before the first byte.
    pub(super) latency_s: f64,
    /// Bytes through the busiest port.
    pub(super) bytes: f64,
    /// Most bytes/s.
    pub(super) bytes_per_s: f64,
}

impl Method {
    fn seconds(&self) -> f64 {
        self.latency_s + self.bytes / self.bytes_per_s
    }

    fn faster(self, other: Self) -> Self {
        if other.seconds() < self.seconds() { other } else { self }
    }
}

/// A collective in which the busiest rank passes on `bytes`. For a sum `array` is the whole array.
pub(super) fn collective(
    gpu: &Gpu,
    transport: Transport,
    kind: CommKind,
    at: Layout,
    bytes: f64,
    array: f64,
) -> Method {
    let link = &gpu.link;
    if copies(transport, kind, at) {
        let (rate, fixed) = link.copy_engine;
        let rate = rate.min(link.pair_bytes_per_s * (at.ranks - 1) as f64);
        return Method { latency_s: fixed, bytes, bytes_per_s: rate };
    }
    if kind == CommKind::AllToAll {
        return all_to_all(gpu, at, bytes);
    }
    let steps = match kind {
        CommKind::AllReduce => 2 * (at.ranks - 1),
        // A pipeline: the first byte passes every rank, the rest follow.
        _ => at.ranks - 1,
    } as f64;
    let between = (at.nodes - 1) as f64 * if kind == CommKind::AllReduce { 2.0 } else { 1.0 };
    // Without a switch a ring of few ranks has but the links among them.
    let mut rate = link.ring_bytes_per_s.min(link.pair_bytes_per_s * (at.ranks - 1) as f64);
    if let Some(net) = gpu.net.filter(|_| at.nodes > 1) {
        rate = rate.min(net.nic_bytes_per_s * at.on_node as f64);
    }
    let ring = |protocol: &Protocol| Method {
        latency_s: link.kernel_s + protocol.base_s + (steps - between) * protocol.hop_s + between * protocol.net_hop_s,
        bytes,
        bytes_per_s: (rate * protocol.rate).min(protocol.most_bytes_per_s),
    };
    let used = link.protocols.iter().filter(|protocol| protocol.rate > 0.0).map(ring);
    let simple = ring(&Protocol { rate: 1.0, ..link.protocols[2] });
    let best = used.fold(simple, Method::faster);
    match link.switch {
        Some((rate, latency_s)) if kind == CommKind::AllReduce && at.nodes == 1 && at.ranks > 2 => {
            best.faster(Method { latency_s: link.kernel_s + latency_s, bytes: array, bytes_per_s: rate })
        }
        _ => best,
    }
}

/// One message of `bytes` in a group of `at.ranks`.
pub(super) fn send(gpu: &Gpu, transport: Transport, at: Layout, bytes: f64, crosses: bool) -> Method {
    let link = &gpu.link;
    if copies(transport, CommKind::SendRecv, at) {
        let (rate, fixed) = link.copy_engine;
        return Method { latency_s: fixed, bytes, bytes_per_s: rate.min(link.pair_bytes_per_s) };
    }
    let rate = peer_rate(link, peer_channels(link, at.ranks, bytes));
    match gpu.net.filter(|_| crosses) {
        Some(net) => Method { latency_s: link.peer_s + net.peer_s, bytes, bytes_per_s: rate.min(net.nic_bytes_per_s) },
        None => Method { latency_s: link.peer_s, bytes, bytes_per_s: rate },
    }
}

/// SMs that a communication of a group takes, and its bytes/s through device memory.
pub(super) fn load(
    gpu: &Gpu,
    transport: Transport,
    kind: CommKind,
    at: Layout,
    peers: usize,
    bytes: f64,
) -> (f64, f64) {
    let link = &gpu.link;
    if copies(transport, kind, at) {
        // Read here, written there.
        return (0.0, 2.0 * link.copy_engine.0);
    }
    let (channels, rate) = match kind {
        CommKind::SendRecv | CommKind::AllToAll => {
            let each = peer_channels(link, at.ranks, bytes / peers.max(1) as f64);
            let rate = (peers as f64 * peer_rate(link, each)).min(link.all_to_all_bytes_per_s);
            ((each * peers as f64).min(link.peer_channels), rate)
        }
        _ => (link.channels, link.ring_bytes_per_s),
    };
    // Every byte is read and written about twice.
    (channels, 4.0 * if at.nodes > 1 { rate.min(nic_rate(gpu, at)) } else { rate })
}

fn nic_rate(gpu: &Gpu, at: Layout) -> f64 {
    gpu.net.map_or(f64::INFINITY, |net| net.nic_bytes_per_s * at.on_node as f64)
}

fn copies(transport: Transport, kind: CommKind, at: Layout) -> bool {
    transport == Transport::CopyEngine && !kind.reduces() && at.nodes == 1
}

fn all_to_all(gpu: &Gpu, at: Layout, bytes: f64) -> Method {
    let link = &gpu.link;
    let peers = (at.ranks - 1) as f64;
    let each = peer_rate(link, peer_channels(link, at.ranks, bytes / peers));
    let inside = (each * peers).min(link.all_to_all_bytes_per_s);
    match gpu.net.filter(|_| at.nodes > 1) {
        Some(net) => Method {
            latency_s: link.peer_s + net.peer_s,
            bytes,
            // What goes over the NIC is all but the messages inside the node.
            bytes_per_s: inside.min(net.nic_bytes_per_s / outside(at)),
        },
        None => Method { latency_s: link.peer_s, bytes, bytes_per_s: inside },
    }
}

/// Part of an all-to-all's bytes that leaves the node.
pub(super) fn outside(at: Layout) -> f64 {
    (at.ranks - at.on_node) as f64 / (at.ranks - 1).max(1) as f64
}

/// Channels to one peer: the shared ones divided, doubled while a channel has much to carry.
fn peer_channels(link: &Link, ranks: usize, bytes: f64) -> f64 {
    let shared = link.peer_channels as usize / ranks.max(1);
    let mut channels = if shared == 0 { 1 } else { 1 << shared.ilog2() };
    while (channels as f64) < link.peer_channels && bytes / channels as f64 > link.peer_channel_bytes {
        channels *= 2;
    }
    channels as f64
}

/// Rate to one peer: the table's, in proportion below its first row.
fn peer_rate(link: &Link, channels: f64) -> f64 {
    let Some((first, rate)) = link.peer_bytes_per_s.first() else { return link.port_bytes_per_s };
    let row = link.peer_bytes_per_s.iter().rev().find(|(from, _)| *from <= channels);
    row.map_or(rate * channels / first, |(_, rate)| *rate).min(link.pair_bytes_per_s)
}
