//! Messages on a connection: length u32, payload, MAC [32] over direction, number and payload.

use std::io::{ErrorKind, Result};
use std::net::TcpStream;
use std::time::Instant;

use crate::rendezvous::signed::key::{Key, MAC_BYTES};
use crate::rendezvous::store::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::rendezvous::stream::{read_by, write_by};

/// Largest payload: a request with the longest key and value.
pub(super) const PAYLOAD_BYTES_MAX: usize = 2 + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// One end of a connection whose other end has proved the key.
pub(super) struct Session {
    key: Key,
    sends: Direction,
    receives: Direction,
}

struct Direction {
    from: &'static [u8],
    frames: u64,
}

impl Session {
    pub(super) fn of_host(key: Key) -> Self {
        Self::new(key, b"from host", b"from client")
    }

    pub(super) fn of_client(key: Key) -> Self {
        Self::new(key, b"from client", b"from host")
    }

    fn new(key: Key, sends: &'static [u8], receives: &'static [u8]) -> Self {
        let direction = |from| Direction { from, frames: 0 };
        Self { key, sends: direction(sends), receives: direction(receives) }
    }

    pub(super) fn send(&mut self, stream: &TcpStream, payload: &[u8], deadline: Instant) -> Result<()> {
        let mut frame = Vec::with_capacity(4 + payload.len() + MAC_BYTES);
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        frame.extend(self.key.sign(&[self.sends.from, &self.sends.frames.to_le_bytes(), payload]));
        self.sends.frames += 1;
        write_by(stream, &frame, deadline)
    }

    /// The next payload.
    pub(super) fn receive(&mut self, stream: &TcpStream, deadline: Instant) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        read_by(stream, &mut length, deadline)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; length + MAC_BYTES];
        read_by(stream, &mut frame, deadline)?;
        let mac = frame.split_off(length);
        if !self.key.verifies(&[self.receives.from, &self.receives.frames.to_le_bytes(), &frame], &mac) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.receives.frames += 1;
        Ok(frame)
    }
}
