//! The CUDA source of the link between ranks that share a device, executed by the emulation: by its
//! clock a message lasts as long as the link says, and takes its ports for so long.

mod emulation;
mod support;

use emulation::device::Device;
use emulation::{Emulator, Options};
use seqpar::kernel::cuda::{Passage, link};

/// Room for reads of the clock.
const SLACK_NS: u64 = 2_000;

struct Ports<'a> {
    device: Device<'a>,
    /// The lock, the ports of three ranks (out, in), the arrivals of messages.
    memory: u64,
}

impl Ports<'_> {
    fn new() -> Self {
        let device = Emulator::shared().device();
        let memory = device.upload(&[0; 256], "ports");
        Self { device, memory }
    }

    fn passage(&self, message: u64, from: u64, to: u64, transfer_ns: u64, latency_ns: u64) -> Passage {
        Passage {
            lock: self.memory,
            ports: [self.memory + 8 + 16 * from, self.memory + 16 + 16 * to],
            arrival: self.memory + 128 + 8 * message,
            transfer_ns,
            latency_ns,
            timeout_ns: 1_000_000_000,
        }
    }

    /// Runs the first (0) or the second (1) launch at `now_ns`; when it ended.
    fn run(&self, passage: &Passage, which: usize, now_ns: u64) -> u64 {
        let options = Options { now_ns, ..Options::seeded(now_ns) };
        let outcome = self.device.run(&link(passage)[which], &options, None);
        assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
        outcome.counters.now_ns
    }

    fn word(&self, address: u64) -> u64 {
        u64::from_ne_bytes(self.device.read(address, 8).try_into().unwrap())
    }
}

#[test]
fn a_message_lasts_as_long_as_the_link_says() {
    let ports = Ports::new();
    let passage = ports.passage(0, 0, 1, 40_000, 7_000);
    let stamped = ports.run(&passage, 0, 1_000_000);
    assert!(stamped < 1_000_000 + SLACK_NS, "a stamp waits for nothing: {stamped}");
    let arrival = ports.word(passage.arrival);
    assert!((1_047_000..1_047_000 + SLACK_NS).contains(&arrival), "{arrival}");
    // Held until then, or not at all after a copy that took longer.
    let held = ports.run(&passage, 1, 1_010_000);
    assert!((arrival..arrival + SLACK_NS).contains(&held), "{held}, {arrival}");
    assert!(ports.run(&passage, 1, 1_060_000) < 1_060_000 + SLACK_NS);
    assert_eq!(ports.word(ports.memory) as u32, 0, "the lock is given back");
}

#[test]
fn messages_share_ports_and_nothing_else() {
    let ports = Ports::new();
    let message = |i, from, to| {
        let passage = ports.passage(i, from, to, 50_000, 1_000);
        ports.run(&passage, 0, 1_000_000);
        ports.word(passage.arrival)
    };
    let near = |seen: u64, want: u64| assert!((want..want + 3 * SLACK_NS).contains(&seen), "{seen}, not {want}");
    near(message(0, 0, 1), 1_051_000);
    near(message(1, 0, 2), 1_101_000); // the sender's port
    near(message(2, 2, 1), 1_101_000); // the receiver's
    near(message(3, 2, 0), 1_151_000); // out again, in for the first time
    near(message(4, 1, 0), 1_201_000); // in again
    near(message(5, 1, 2), 1_251_000); // out behind the last one
}

/// A lock that nobody gives back, an arrival that is nonsense: both waits end.
#[test]
fn every_wait_is_bounded() {
    let ports = Ports::new();
    let passage = Passage { timeout_ns: 30_000, ..ports.passage(0, 0, 1, 10, 10) };
    ports.device.write(ports.memory, &1u32.to_ne_bytes());
    let seen = ports.run(&passage, 0, 500_000);
    assert!(seen >= 530_000, "{seen}");
    assert_eq!(ports.word(ports.memory) as u32, 1, "it was never its own");
    ports.device.write(passage.arrival, &u64::MAX.to_ne_bytes());
    let seen = ports.run(&passage, 1, 500_000);
    assert!((530_000..530_000 + SLACK_NS).contains(&seen), "{seen}");
}
