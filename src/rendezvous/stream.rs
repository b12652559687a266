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

/// A new stream to the first address of "host:port" that takes it: a name may have several, of which
/// the host listens on one.
pub(super) fn reach_by(address: &str, deadline: Instant) -> Result<TcpStream> {
    reach_any(&resolve_by(address, deadline)?, deadline)
}

fn reach_any(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream> {
    let mut why = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect_by(*address, deadline.min(Instant::now() + EACH)) {
            Ok(stream) => return Ok(stream),
            Err(other) => why = other,
        }
    }
    Err(why)
}

/// How long one of several addresses is tried.
const EACH: Duration = Duration::from_secs(1);

/// A new stream.
pub(super) fn connect_by(address: SocketAddr, deadline: Instant) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    // Where nobody listens on a port that the system hands out, it may hand us that very one.
    if stream.local_addr()? == address {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    // Messages are small, and each is waited for.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The addresses of "host:port", in the system's order; [`ErrorKind::InvalidInput`] if it is not that.
/// The system's look-up knows no deadline, so it gets a thread, which is left behind where it takes
/// too long.
fn resolve_by(address: &str, deadline: Instant) -> Result<Vec<SocketAddr>> {
    let (host, port) = apart(address).ok_or(ErrorKind::InvalidInput)?;
    if let Ok(host) = host.parse() {
        return Ok(vec![SocketAddr::new(host, port)]);
    }
    let (tell, told) = mpsc::channel();
    let host = host.to_string();
    std::thread::Builder::new().name("seqpar-resolve".into()).spawn(move || {
        let _ = tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
    })?;
    told.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| ErrorKind::TimedOut)?
}

/// Host and port; an address of IPv6 may stand in brackets or without.
fn apart(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port.parse().ok()?))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (address, host) in
            [("n1:7", "n1"), ("127.0.0.1:7", "127.0.0.1"), ("[::1]:7", "::1"), ("::1:7", "::1"), ("a.b:7", "a.b")]
        {
            assert_eq!(apart(address), Some((host, 7)), "{address}");
        }
        for none in ["", "n1", ":7", "n1:", "n1:x", "n1:70000", "[]:7"] {
            assert_eq!(apart(none), None, "{none}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_no_host_that_is_late() {
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(reach_by("n1", soon).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let soon = Instant::now() + Duration::from_secs(3);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(reach_any(&[nobody, here], soon).unwrap().peer_addr().unwrap(), here);
        assert_eq!(reach_any(&[nobody], soon).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(reach_any(&[], soon).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
