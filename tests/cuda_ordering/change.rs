//! What can be wrong with a lowered form.

use seqpar::plan::lower::{Command, Lowered};

/// One thing changed on one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    /// A wait is left out.
    NoWait { stream: usize, at: usize },
    /// A record stands before the op that it is for.
    EarlyRecord { stream: usize, at: usize },
    /// A gated read does not wait for its flag.
    NoGate { gate: usize },
    /// A flag is raised before the transfer that it is for.
    EarlyRaise { stream: usize, at: usize },
    /// Nobody records.
    NoRecord { stream: usize, at: usize },
    /// Nobody raises the flag.
    NoRaise { stream: usize, at: usize },
}

impl Change {
    /// All that can be wrong with `lowered`.
    pub(super) fn all(lowered: &Lowered) -> Vec<Self> {
        let mut list: Vec<Self> = (0..lowered.gates.len()).map(|gate| Self::NoGate { gate }).collect();
        for (stream, commands) in lowered.streams.iter().enumerate() {
            for (at, command) in commands.iter().enumerate() {
                match command {
                    Command::Wait(_) => list.push(Self::NoWait { stream, at }),
                    Command::Record(_) => {
                        list.extend([Self::EarlyRecord { stream, at }, Self::NoRecord { stream, at }]);
                    }
                    Command::Raise(_) => list.extend([Self::EarlyRaise { stream, at }, Self::NoRaise { stream, at }]),
                    Command::Run(_) => {}
                }
            }
        }
        list
    }

    /// Whether something will wait for ever; otherwise something waits for too little.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Self::NoRecord { .. } | Self::NoRaise { .. })
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::NoWait { .. } => "waits dropped",
            Self::EarlyRecord { .. } => "records before their op",
            Self::NoGate { .. } => "gates dropped",
            Self::EarlyRaise { .. } => "flags before their data",
            Self::NoRecord { .. } => "records dropped",
            Self::NoRaise { .. } => "raises dropped",
        }
    }

    pub(super) fn apply(&self, lowered: &mut Lowered) {
        match *self {
            Self::NoGate { gate } => drop(lowered.gates.remove(gate)),
            Self::NoWait { stream, at } | Self::NoRecord { stream, at } | Self::NoRaise { stream, at } => {
                lowered.streams[stream].remove(at);
            }
            Self::EarlyRecord { stream, at } | Self::EarlyRaise { stream, at } => {
                let commands = &mut lowered.streams[stream];
                let early = commands.remove(at);
                let run = commands[..at].iter().rposition(|command| matches!(command, Command::Run(_))).unwrap();
                commands.insert(run, early);
            }
        }
    }
}
