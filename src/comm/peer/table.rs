//! What a rank tells the others of a program: its messages, and where it receives.

use crate::cuda::MemoryHandle;

/// Bytes of an allocation of the rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Index in [`Table::memories`].
    pub(super) memory: usize,
    pub(super) offset: u64,
}

/// An allocation that others write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Memory {
    /// In the rank's own process.
    pub(super) base: u64,
    /// For other processes; `None` where there are none.
    pub(super) handle: Option<MemoryHandle>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sent {
    pub(super) to: usize,
    pub(super) bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Received {
    pub(super) from: usize,
    pub(super) bytes: usize,
    pub(super) at: Place,
}

/// See [`self`]. Flag `i` of the page is of receive `i`, flag `receives + j` of send `j`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) memories: Vec<Memory>,
    pub(super) page: Place,
    pub(super) sends: Vec<Sent>,
    pub(super) receives: Vec<Received>,
}

impl Table {
    /// Indices of the receives from a rank, in order.
    pub(super) fn receives_from(&self, rank: usize) -> Vec<usize> {
        (0..self.receives.len()).filter(|&i| self.receives[i].from == rank).collect()
    }

    /// Indices of the sends to a rank, in order.
    pub(super) fn sends_to(&self, rank: usize) -> Vec<usize> {
        (0..self.sends.len()).filter(|&i| self.sends[i].to == rank).collect()
    }

    /// One item a line.
    pub(super) fn encode(&self) -> String {
        let mut lines = Vec::new();
        for Memory { base, handle } in &self.memories {
            lines.push(format!("memory {base} {}", handle.as_ref().map_or("-".into(), |h| hex(h.as_bytes()))));
        }
        lines.push(format!("page {} {}", self.page.memory, self.page.offset));
        lines.extend(self.sends.iter().map(|sent| format!("send {} {}", sent.to, sent.bytes)));
        let receive = |r: &Received| format!("receive {} {} {} {}", r.from, r.bytes, r.at.memory, r.at.offset);
        lines.extend(self.receives.iter().map(receive));
        lines.join("\n")
    }

    /// `None`: not what [`Table::encode`] writes.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let (mut memories, mut page, mut sends, mut receives) = (Vec::new(), None, Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let place =
                |memory: &str, offset: &str| Some(Place { memory: memory.parse().ok()?, offset: offset.parse().ok()? });
            match words[..] {
                ["memory", base, handle] => {
                    let handle = match handle {
                        "-" => None,
                        text => Some(MemoryHandle::from_bytes(&bytes(text)?).ok()?),
                    };
                    memories.push(Memory { base: base.parse().ok()?, handle });
                }
                ["page", memory, offset] => page = Some(place(memory, offset)?),
                ["send", to, bytes] => sends.push(Sent { to: to.parse().ok()?, bytes: bytes.parse().ok()? }),
                ["receive", from, bytes, memory, offset] => receives.push(Received {
                    from: from.parse().ok()?,
                    bytes: bytes.parse().ok()?,
                    at: place(memory, offset)?,
                }),
                _ => return None,
            }
        }
        let known = |place: &Place| place.memory < memories.len();
        let table = Self { page: page.filter(known)?, sends, receives, memories: memories.clone() };
        table.receives.iter().all(|received| known(&received.at)).then_some(table)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.is_ascii() && hex.len().is_multiple_of(2);
    digits.then(|| (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok()).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_as_it_was_written() {
        let handle = MemoryHandle::from_bytes(&std::array::from_fn::<u8, 64, _>(|i| 255 - i as u8)).unwrap();
        let table = Table {
            memories: vec![Memory { base: 4096, handle: Some(handle) }, Memory { base: 99, handle: None }],
            page: Place { memory: 1, offset: 0 },
            sends: vec![Sent { to: 2, bytes: 5 }, Sent { to: 1, bytes: 0 }, Sent { to: 2, bytes: 6 }],
            receives: vec![Received { from: 2, bytes: 7, at: Place { memory: 0, offset: 64 } }],
        };
        let text = table.encode();
        assert_eq!(Table::decode(&text).as_ref(), Some(&table));
        assert_eq!((table.sends_to(2), table.receives_from(1)), (vec![0, 2], vec![]));
        let without_page = text.replace("page 1 0\n", "");
        let elsewhere = text.replace("7 0 64", "7 2 64");
        let odd = text.replace("ff", "f");
        for wrong in [without_page, elsewhere, odd, text + "\nmore"] {
            assert_eq!(Table::decode(&wrong), None, "{wrong}");
        }
    }
}
