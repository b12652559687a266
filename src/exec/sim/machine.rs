//! Machines to simulate: what one rank computes, and what joins the ranks.

use crate::error::{Error, Result};
use crate::machine::Machine;

/// A machine as the simulator sees it: numbers, each with its source in a file under `machines/`.
#[derive(Clone, Debug, PartialEq)]
pub struct SimMachine {
    /// Name in tables.
    pub name: String,
    /// Most ranks that it holds.
    pub ranks: usize,
    /// What a rank is.
    pub device: Device,
}

/// What a rank is, and what joins ranks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Device {
    /// Threads and the host executor's link model.
    Host(Host),
    /// A GPU, with NCCL or its copy engines.
    Gpu(Box<Gpu>),
}

/// Ranks as threads: one port out and one in a rank, a message at a time, kernels as long as
/// [`Machine::kernel_s`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Rates.
    pub machine: Machine,
    /// A thread that sleeps until a time wakes up to this much later, and half of it at least. It
    /// costs little by itself, but it disturbs the order of an all-to-all.
    pub wake_s: f64,
}

/// A GPU, the links of its node and of its network. Rates are bytes/s and FLOP/s, times seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// GPUs of one node.
    pub node_ranks: usize,
    /// Streaming multiprocessors.
    pub sms: f64,
    /// Memory.
    pub memory_bytes: f64,
    /// Matrix product in f16 and bf16, before the losses of ragged waves.
    pub gemm_flops: f64,
    /// Matrix product in f32.
    pub f32_flops: f64,
    /// Length of a sum that costs as much as filling and draining the pipeline once.
    pub gemm_fill_k: f64,
    /// Attention over many keys, by head dim, ascending.
    pub attention_flops: Vec<(usize, f64)>,
    /// Keys at which attention reaches half of that.
    pub attention_half_keys: f64,
    /// Reads and writes of device memory.
    pub memory_bytes_per_s: f64,
    /// Cost for the issuing thread of one op.
    pub issue_s: f64,
    /// Gap on the device between two ops of a stream.
    pub gap_s: f64,
    /// The links among the GPUs of a node.
    pub link: Link,
    /// The network between nodes, if the machine has several.
    pub net: Option<Net>,
}

/// The links inside a node, under each method of moving bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// A GPU's port, each direction, whatever moves the bytes.
    pub port_bytes_per_s: f64,
    /// Ring collectives.
    pub ring_bytes_per_s: f64,
    /// Latency model of ring collectives, by protocol.
    pub protocols: [Protocol; 3],
    /// Start and end of a collective's kernel, on top of its protocol's own time.
    pub kernel_s: f64,
    /// Channels, a CTA each, of a ring collective.
    pub channels: f64,
    /// Sends and receives: rate by channels to one peer, ascending.
    pub peer_bytes_per_s: Vec<(f64, f64)>,
    /// Channels that sends and receives share.
    pub peer_channels: f64,
    /// Bytes of one channel above which a peer gets twice as many.
    pub peer_channel_bytes: f64,
    /// Latency of one send.
    pub peer_s: f64,
    /// All peers of an all-to-all together.
    pub all_to_all_bytes_per_s: f64,
    /// In-switch reduction: array bytes/s and latency; `None` without.
    pub switch: Option<(f64, f64)>,
    /// Copy engines: rate of a port, and the fixed time of one copy.
    pub copy_engine: (f64, f64),
    /// Two GPUs among each other, whatever moves the bytes; infinite behind a switch.
    pub pair_bytes_per_s: f64,
    /// GPUs of a socket and what the sockets share, each direction; `None` where every pair of
    /// GPUs is joined alike.
    pub socket: Option<(usize, f64)>,
}

/// One of NCCL's protocols in a ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// Part of the ring's rate that it reaches; 0 where it is not used.
    pub rate: f64,
    /// Most bytes/s, whatever the ring's rate.
    pub most_bytes_per_s: f64,
    /// Time of a call without steps.
    pub base_s: f64,
    /// Time of one step inside a node.
    pub hop_s: f64,
    /// Time of one step between nodes.
    pub net_hop_s: f64,
}

/// The network: one NIC a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Net {
    /// A NIC, each direction.
    pub nic_bytes_per_s: f64,
    /// Latency of one send, on top of the one inside a node.
    pub peer_s: f64,
}

impl SimMachine {
    /// The host executor on `machine`: its link model and its paced clock, with threads that wake
    /// as late as Linux lets them (50 us of timer slack, and as much again until they run).
    pub fn host(machine: Machine) -> Self {
        Self { name: machine.name.clone(), ranks: 4096, device: Device::Host(Host { machine, wake_s: 100e-6 }) }
    }

    /// The machine of that name: one of [`MACHINES`].
    ///
    /// # Errors
    /// An unknown name; lists the known ones.
    pub fn named(name: &str) -> Result<Self> {
        let known = || MACHINES.map(|(name, _)| name).join(", ");
        let found = MACHINES.iter().find(|(known, _)| *known == name);
        let (name, text) = found.ok_or_else(|| {
            Error::Unsupported(format!("unknown machine \"{name}\": use {} or the path of a machine file", known()))
        })?;
        Self::parse(name, text)
    }

    /// Bytes of one rank's memory, where the machine says.
    pub fn memory_bytes(&self) -> Option<f64> {
        match &self.device {
            Device::Host(_) => None,
            Device::Gpu(gpu) => Some(gpu.memory_bytes),
        }
    }

    /// The same machine with links and networks `factor` times as fast; latencies stay.
    pub fn with_links(&self, factor: f64) -> Self {
        let mut machine = self.clone();
        match &mut machine.device {
            Device::Host(host) => host.machine.link_bytes_per_s *= factor,
            Device::Gpu(gpu) => {
                let link = &mut gpu.link;
                link.port_bytes_per_s *= factor;
                link.ring_bytes_per_s *= factor;
                link.all_to_all_bytes_per_s *= factor;
                link.copy_engine.0 *= factor;
                link.pair_bytes_per_s *= factor;
                link.peer_bytes_per_s.iter_mut().for_each(|(_, rate)| *rate *= factor);
                link.protocols.iter_mut().for_each(|protocol| protocol.most_bytes_per_s *= factor);
                link.switch.iter_mut().for_each(|(rate, _)| *rate *= factor);
                link.socket.iter_mut().for_each(|(_, rate)| *rate *= factor);
                gpu.net.iter_mut().for_each(|net| net.nic_bytes_per_s *= factor);
            }
        }
        machine
    }
}

/// The machine files of this crate.
pub const MACHINES: [(&str, &str); 7] = [
    ("h100x8", include_str!("../../../machines/h100x8.toml")),
    ("h100x4", include_str!("../../../machines/h100x4.toml")),
    ("h200x8", include_str!("../../../machines/h200x8.toml")),
    ("a100x8", include_str!("../../../machines/a100x8.toml")),
    ("l40x8", include_str!("../../../machines/l40x8.toml")),
    ("h100x8-ib", include_str!("../../../machines/h100x8-ib.toml")),
    ("cpu", include_str!("../../../machines/cpu.toml")),
];
