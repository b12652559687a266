//! Reaching, reading and writing a TCP stream by a deadline.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Fills the buffer, by the deadline however slowly the bytes drip.
pub(super) fn read_by(mut stream: &TcpStream, mut buffer: &mut [u8], deadline: Instant) -> Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => buffer = buffer.get_mut(read..).unwrap_or_default(),
            Err(why) => again(why)?,
        }
    }
    Ok(())
}

/// Writes all bytes.
pub(super) fn write_by(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(why) => again(why)?,
        }
    }
    Ok(())
}

/// A new stream.
pub(super) fn connect_by(address: SocketAddr, deadline: Instant) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    // Messages are small, and each is waited for.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first address of "host:port". The system's look-up knows no deadline, so it gets a thread,
/// which is left behind where it takes too long.
pub(super) fn resolve_by(address: &str, deadline: Instant) -> Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let (tell, told) = mpsc::channel();
    let name = address.to_string();
    std::thread::Builder::new().name("seqpar-resolve".into()).spawn(move || {
        let _ = tell.send(name.to_socket_addrs().map(|mut all| all.next()));
    })?;
    match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(Error::new(ErrorKind::NotFound, "the name has no address")),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Nothing if the call may be repeated; the caller's deadline ends that.
fn again(why: Error) -> Result<()> {
    match why.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        _ => Err(why),
    }
}
