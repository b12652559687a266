//! The messages of a program, connected to the other ranks' memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::hello::Peers;
use super::page::{Page, flag};
use super::table::{Memory, Place, Received, Sent, Table};
use crate::cuda::{ImportedMemory, MemoryHandle, allocation_of};
use crate::error::{Error, FailureKind, Result};
use crate::plan::Direction;

/// How long others may take to let go of this rank's memory.
const LET_GO: Duration = Duration::from_secs(2);

/// One side of a message. The `i`-th that a rank sends to another meets the `i`-th that the other
/// receives from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// To or from which rank of the world.
    pub peer: usize,
    /// Which side.
    pub direction: Direction,
    /// Device address in this process.
    pub address: u64,
    /// Length.
    pub bytes: usize,
}

/// What is to be put on the stream of an op. Addresses are this process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes 1 to a flag.
    Raise(u64),
    /// Waits until a flag is 1 or more.
    Wait(u64),
    /// Writes 0 to a flag.
    Lower(u64),
    /// Copies.
    Copy {
        /// Written.
        to: u64,
        /// Read.
        from: u64,
        /// Length.
        bytes: usize,
    },
}

/// The messages of one program; usable as long as all ranks keep theirs.
#[derive(Debug)]
pub struct Connection {
    peers: Peers,
    number: usize,
    routes: Vec<(usize, Route)>,
    imports: Vec<ImportedMemory>,
    page: Option<Arc<Page>>,
}

/// The way of one message, with its flags.
#[derive(Clone, Copy, Debug)]
enum Route {
    Out { ready: u64, copy: Step, arrived: u64 },
    In { ready: u64, arrived: u64 },
}

impl Peers {
    /// Connects the messages of one program, in its order; all ranks of the world connect theirs.
    /// On a thread on which the rank's context is current.
    ///
    /// # Errors
    /// Messages that do not match the other ranks' ([`FailureKind::Mismatch`]), ranks that do not
    /// connect, memory that cannot be exported, and what store and driver say.
    pub fn connect(&self, messages: &[Message]) -> Result<Connection> {
        self.health()?;
        if let Some(message) = messages.iter().find(|message| message.peer >= self.world()) {
            return Err(Error::Mesh(format!("a message for rank {} of a world of {}", message.peer, self.world())));
        }
        let number = self.next_connection();
        let of = |wanted| messages.iter().filter(move |message| message.direction == wanted);
        let page = Arc::new(Page::new(messages.len())?);
        let mut own = Table {
            memories: Vec::new(),
            page: Place { memory: 0, offset: 0 },
            sends: of(Direction::Send).map(|m| Sent { to: m.peer, bytes: m.bytes }).collect(),
            receives: Vec::new(),
        };
        own.page = self.exported(&mut own.memories, page.address())?;
        for message in of(Direction::Recv) {
            // No byte of an empty message is written: anywhere will do.
            let at = if message.bytes == 0 { page.address() } else { message.address };
            let at = self.exported(&mut own.memories, at)?;
            own.receives.push(Received { from: message.peer, bytes: message.bytes, at });
        }
        let said = self.exchange(&format!("{number}/table"), &own.encode())?;
        let mut tables = Vec::new();
        for (rank, text) in said.iter().enumerate() {
            let table = Table::decode(text).ok_or_else(|| {
                let (mine, theirs) = ("say what it sends and receives".into(), "say something else".into());
                self.failure(FailureKind::Mismatch { mine, theirs }, vec![rank])
            })?;
            self.compare(&own, &table, rank)?;
            tables.push(table);
        }
        self.watch(&page);
        let mut connection =
            Connection { peers: self.clone(), number, routes: Vec::new(), imports: Vec::new(), page: Some(page) };
        connection.route(messages, &own, &tables)?;
        Ok(connection)
    }

    /// The place of an address in the allocation that holds it, exported where others need it.
    fn exported(&self, memories: &mut Vec<Memory>, address: u64) -> Result<Place> {
        let (base, _) = allocation_of(address)?;
        let offset = address - base;
        if let Some(memory) = memories.iter().position(|memory| memory.base == base) {
            return Ok(Place { memory, offset });
        }
        let all_here = (0..self.world()).all(|rank| self.is_here(rank));
        let handle = if all_here { None } else { Some(MemoryHandle::of(base)?) };
        memories.push(Memory { base, handle });
        Ok(Place { memory: memories.len() - 1, offset })
    }

    /// Holds the messages between this rank and another against each other.
    fn compare(&self, own: &Table, other: &Table, rank: usize) -> Result<()> {
        let own_bytes = |direction| lengths(own, direction, rank);
        let other_bytes = |direction| lengths(other, direction, self.rank());
        for (mine, theirs, verbs) in [
            (own_bytes(Direction::Send), other_bytes(Direction::Recv), ["send", "receive"]),
            (own_bytes(Direction::Recv), other_bytes(Direction::Send), ["receive", "send"]),
        ] {
            let differ = (0..mine.len().max(theirs.len())).find(|&i| mine.get(i) != theirs.get(i));
            let Some(i) = differ else { continue };
            let would = |verb: &str, list: &[usize]| match list.get(i) {
                Some(bytes) => format!("{verb} {bytes} bytes as message {i} between the two"),
                None => format!("{verb} {i} messages between the two"),
            };
            let (mine, theirs) = (would(verbs[0], &mine), would(verbs[1], &theirs));
            return Err(self.failure(FailureKind::Mismatch { mine, theirs }, vec![rank]));
        }
        Ok(())
    }
}

fn lengths(table: &Table, direction: Direction, peer: usize) -> Vec<usize> {
    match direction {
        Direction::Send => table.sends_to(peer).into_iter().map(|i| table.sends[i].bytes).collect(),
        Direction::Recv => table.receives_from(peer).into_iter().map(|i| table.receives[i].bytes).collect(),
    }
}

impl Connection {
    /// The steps of one op, in the order of its stream: those of the messages of that range, which
    /// are of no other op.
    pub fn steps(&self, messages: Range<usize>) -> Vec<Step> {
        let (rank, world) = (self.peers.rank(), self.peers.world());
        let mut of: Vec<(usize, Route)> = self.routes.get(messages).unwrap_or_default().to_vec();
        // Each rank begins with the one behind it: never all with the same.
        of.sort_by_key(|(peer, _)| (peer + world - rank) % world);
        let mut steps = Vec::new();
        for (_, route) in &of {
            if let Route::In { ready, .. } = *route {
                steps.push(Step::Raise(ready));
            }
        }
        for (_, route) in &of {
            if let Route::Out { ready, copy, arrived } = *route {
                steps.extend([Step::Wait(ready), Step::Lower(ready), copy, Step::Raise(arrived)]);
            }
        }
        for (_, route) in &of {
            if let Route::In { arrived, .. } = *route {
                steps.extend([Step::Wait(arrived), Step::Lower(arrived)]);
            }
        }
        steps
    }

    /// Keeps everything mapped and allocated for ever: work that does not end may use it.
    pub fn leave(&mut self) {
        self.imports.drain(..).for_each(std::mem::forget);
        if let Some(page) = self.page.take().and_then(Arc::into_inner) {
            page.leave();
        }
    }

    /// The tables match.
    fn route(&mut self, messages: &[Message], own: &Table, tables: &[Table]) -> Result<()> {
        let rank = self.peers.rank();
        let mut mapped = Mapped::default();
        let page = own.memories[own.page.memory].base + own.page.offset;
        let (mut sent, mut received) = (0, 0);
        let mut nth: HashMap<(usize, Direction), usize> = HashMap::new();
        for message in messages {
            let table = &tables[message.peer];
            let nth = nth.entry((message.peer, message.direction)).or_default();
            let their_page = mapped.address(self, tables, message.peer, table.page)?;
            let route = match message.direction {
                Direction::Send => {
                    let theirs = table.receives_from(rank)[*nth];
                    let to = mapped.address(self, tables, message.peer, table.receives[theirs].at)?;
                    sent += 1;
                    Route::Out {
                        ready: flag(page, own.receives.len() + sent - 1),
                        copy: Step::Copy { to, from: message.address, bytes: message.bytes },
                        arrived: flag(their_page, theirs),
                    }
                }
                Direction::Recv => {
                    let theirs = table.sends_to(rank)[*nth];
                    received += 1;
                    Route::In {
                        ready: flag(their_page, table.receives.len() + theirs),
                        arrived: flag(page, received - 1),
                    }
                }
            };
            *nth += 1;
            self.routes.push((message.peer, route));
        }
        Ok(())
    }
}

/// First addresses of the others' allocations in this process.
#[derive(Default)]
struct Mapped {
    of: HashMap<(usize, usize), u64>,
}

impl Mapped {
    fn address(&mut self, connection: &mut Connection, tables: &[Table], rank: usize, place: Place) -> Result<u64> {
        if let Some(first) = self.of.get(&(rank, place.memory)) {
            return Ok(first + place.offset);
        }
        let memory = &tables[rank].memories[place.memory];
        let first = match &memory.handle {
            _ if connection.peers.is_here(rank) => memory.base,
            Some(handle) => {
                let import = ImportedMemory::open(handle)?;
                connection.imports.push(import);
                connection.imports.last().map_or(0, ImportedMemory::address)
            }
            None => {
                let (mine, theirs) = ("write the memory of another process".into(), "share none".into());
                return Err(connection.peers.failure(FailureKind::Mismatch { mine, theirs }, vec![rank]));
            }
        };
        self.of.insert((rank, place.memory), first);
        Ok(first + place.offset)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.imports.clear();
        // One that goes on may raise flags here; what it copies waits for a flag of ours.
        if !self.peers.all_let_go(&format!("{}/gone", self.number), LET_GO) {
            self.leave();
        }
    }
}
