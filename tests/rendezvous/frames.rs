//! A7: whatever bytes come, nothing panics, and who has not proved the key costs next to nothing.
//! `SEQPAR_SEEDS` sets how many seeds each part takes (40).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::{
    Decoded, FileStore, HELLO_BYTES, Hello, Key, MemoryStore, Nonce, PROTOCOL, Store, TcpOptions, TcpStore,
    VALUE_BYTES_MAX, join,
};
use sha2::Sha256;

use crate::allocations;
use crate::guard::{LIMIT, guarded, guarded_for};
use crate::ranks::{KEY, OTHER_KEY, Process, say, until_told};
use crate::tcp::{key, soon};

fn seeds() -> u64 {
    std::env::var("SEQPAR_SEEDS").map_or(40, |seeds| seeds.parse().unwrap())
}

/// Longer runs may take longer.
fn limit() -> Duration {
    LIMIT.max(Duration::from_millis(100 * seeds()))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Cut, longer, or with bytes changed.
    fn spoiled(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self.below(3) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => {
                let more = 1 + self.below(2 * bytes.len());
                bytes.extend(self.bytes(more));
            }
            _ => {
                for _ in 0..1 + self.below(4) {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
            }
        }
        bytes
    }
}

#[test]
fn a7_hellos_that_are_none() {
    let mut hello = Hello::new(2, 5, Nonce([3; 16])).unwrap();
    hello.plans = vec![1, 2, 3];
    let bytes = hello.encode();
    assert_eq!(bytes.len(), HELLO_BYTES);
    assert_eq!(Hello::decode(&bytes, PROTOCOL), Decoded::Hello(Box::new(hello)));
    for seed in 0..seeds() * 500 {
        let mut random = Random(seed);
        let spoiled = if seed % 5 == 0 {
            let n = random.below(700);
            random.bytes(n)
        } else {
            random.spoiled(&bytes)
        };
        if let Decoded::Hello(read) = Hello::decode(&spoiled, PROTOCOL) {
            assert_eq!(spoiled.len(), HELLO_BYTES, "seed {seed}");
            assert!(read.rank < read.world && read.plans.len() <= 16, "seed {seed}: {read:?}");
            // What is read is what would be said.
            assert_eq!(Hello::decode(&read.encode(), PROTOCOL), Decoded::Hello(read), "seed {seed}");
        }
    }
}

/// A job whose store holds garbage in the places of its messages meets nevertheless.
#[test]
fn a7_garbage_in_the_store_is_passed_over() {
    guarded_for(limit(), || {
        for seed in 0..seeds() {
            let mut random = Random(seed);
            let file = FileStore::open(&crate::file::folder(), "g").unwrap();
            let memory = MemoryStore::default();
            let store: &dyn Store = if seed % 4 == 0 { &file } else { &memory };
            let nonce = Nonce([seed as u8; 16]);
            let mut names: Vec<_> = (0..3).map(|rank| format!("hello/{rank}")).collect();
            names.push("verdict".into());
            for name in &names {
                for slot in 0..random.below(4) {
                    let n = random.below(2000);
                    store.set(&format!("{nonce}/{name}/{slot}"), &random.bytes(n)).unwrap();
                }
            }
            std::thread::scope(|scope| {
                for rank in 0..3 {
                    scope.spawn(move || {
                        let hello = Hello::new(rank, 3, nonce).unwrap();
                        let members = join(store, &key(), &hello, soon());
                        assert_eq!(members.unwrap_or_else(|e| panic!("seed {seed}: {e}")).world(), 3);
                    });
                }
            });
        }
    });
}

#[test]
fn a_store_full_of_garbage_is_an_error() {
    let (store, nonce) = (MemoryStore::default(), Nonce([1; 16]));
    for slot in 0..100 {
        store.set(&format!("{nonce}/hello/0/{slot}"), b"garbage").unwrap();
    }
    let error = join(&store, &key(), &Hello::new(0, 1, nonce).unwrap(), soon()).unwrap_err();
    let Error::Between(failure) = error else { panic!("{error:?}") };
    assert_eq!((failure.kind, failure.rank), (FailureKind::AuthRejected, 0));
}

/// Serves in a child, and says what it allocated; run by `ranks::a_child`.
pub fn host(_: &str) {
    let store = TcpStore::serve(&key(), &TcpOptions::default()).unwrap();
    // What the standard library allocates once.
    drop(TcpStore::connect(&store.address().to_string(), 1, &key(), &TcpOptions::default(), soon()));
    let before = allocations::begin();
    say(&format!("address: {}", store.address()));
    until_told();
    let (peak, largest) = allocations::peak();
    say(&format!("allocated: {} {largest}", peak.saturating_sub(before)));
}

/// A host of its own, its address, and at the end what strangers made it allocate.
fn hosted(body: impl FnOnce(&str)) -> (usize, usize) {
    let mut host = Process::start("host ");
    let address = host.line("address: ").unwrap();
    body(&address);
    // It still serves those who have the key.
    let client = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), soon()).unwrap();
    client.set("a", b"b").unwrap();
    assert_eq!(client.read("a").unwrap().unwrap(), b"b");
    host.let_go();
    let line = host.line("allocated: ").expect("the host died");
    let (peak, largest) = line.split_once(' ').unwrap();
    (peak.parse().unwrap(), largest.parse().unwrap())
}

const STRANGERS: usize = 20;

#[test]
fn a7_bytes_before_the_key_is_proved() {
    guarded_for(limit(), || {
        let (peak, largest) = hosted(|address| {
            for seed in 0..seeds() {
                let mut random = Random(seed);
                let streams: Vec<_> = (0..STRANGERS).map(|_| TcpStream::connect(address).unwrap()).collect();
                for mut stream in streams {
                    let n = [1, 8, 71, 72, 73, 500, 100_000][random.below(7)];
                    let mut bytes = random.bytes(n);
                    if random.below(2) == 0 && n >= 8 {
                        bytes[..8].copy_from_slice(b"SEQPARC1");
                    }
                    // The host may close before it has read all.
                    let _ = stream.write_all(&bytes);
                    if random.below(2) == 0 {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            }
        });
        println!("note: A7: {STRANGERS} strangers at once: peak {peak} bytes, largest allocation {largest}");
        assert!(largest < 64 << 10, "{largest}");
        // Far less than allowed; a client with the key at the end is among it.
        assert!(peak < STRANGERS * (16 << 10), "{peak}");
    });
}

/// What both ends sign with, written a second time from the table in the module's doc.
fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        hmac.update(&(part.len() as u64).to_le_bytes());
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

/// A client of the test's own that has the key; its session's key.
fn proved(address: &str) -> (TcpStream, [u8; 32]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut greeting = [0; 40];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting[..8], *b"SEQPARS1");
    let (host, own) = (&greeting[8..], &[5; 32][..]);
    let proof = sign(KEY.as_bytes(), &[b"client", host, own]);
    stream.write_all(&[b"SEQPARC1", own, &proof].concat()).unwrap();
    let mut answer = [0; 33];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0);
    assert_eq!(answer[1..], sign(KEY.as_bytes(), &[b"host", host, own, &[0]]));
    (stream, sign(KEY.as_bytes(), &[b"session", host, own]))
}

fn frame(session: &[u8], number: u64, payload: &[u8]) -> Vec<u8> {
    let mac = sign(session, &[b"from client", &number.to_le_bytes(), payload]);
    [&(payload.len() as u32).to_le_bytes(), payload, &mac].concat()
}

/// A set of "k" to "v" is SET, length of the key, key, value.
const SET: &[u8] = b"\x01\x01kv";

fn is_closed(mut stream: &TcpStream) -> bool {
    let begin = Instant::now();
    let closed = !matches!(stream.read(&mut [0; 64]), Ok(1..));
    closed && begin.elapsed() < Duration::from_secs(2)
}

#[test]
fn a_frame_that_is_changed_repeated_or_too_long_closes_the_connection() {
    guarded(|| {
        hosted(|address| {
            let answered = |stream: &mut TcpStream| {
                // Length 1, NOTHING, MAC.
                let mut reply = [0; 37];
                stream.read_exact(&mut reply).unwrap();
                assert_eq!(reply[..5], [1, 0, 0, 0, 1]);
            };
            let (mut stream, session) = proved(address);
            stream.write_all(&frame(&session, 0, SET)).unwrap();
            answered(&mut stream);
            stream.write_all(&frame(&session, 1, SET)).unwrap();
            answered(&mut stream);
            let repeated = |session: &[u8]| frame(session, 0, SET);
            let left_out = |session: &[u8]| frame(session, 2, SET);
            let changed = |session: &[u8]| {
                let mut frame = frame(session, 1, SET);
                frame[7] ^= 1;
                frame
            };
            let too_long = |_: &[u8]| (2 * VALUE_BYTES_MAX as u32).to_le_bytes().to_vec();
            for wrong in [repeated, left_out, changed, too_long] as [fn(&[u8]) -> Vec<u8>; 4] {
                let (mut stream, session) = proved(address);
                stream.write_all(&frame(&session, 0, SET)).unwrap();
                answered(&mut stream);
                stream.write_all(&wrong(&session)).unwrap();
                assert!(is_closed(&stream));
            }
            // Half a frame is waited for a second, no longer.
            let (mut stream, session) = proved(address);
            stream.write_all(&frame(&session, 0, SET)[..20]).unwrap();
            assert!(is_closed(&stream));
        });
    });
}

#[test]
fn a7_frames_of_a_client_that_has_the_key() {
    guarded_for(limit(), || {
        let (_, largest) = hosted(|address| {
            for seed in 0..seeds() {
                let mut random = Random(seed);
                let (mut stream, session) = proved(address);
                for number in 0..20 {
                    let n = random.below(300);
                    let mut payload = random.bytes(n);
                    if let [what, length, ..] = payload.as_mut_slice() {
                        (*what, *length) = (random.below(6) as u8, random.below(20) as u8);
                    }
                    let mut sent = frame(&session, number, &payload);
                    if random.below(8) == 0 {
                        sent = random.spoiled(&sent);
                    }
                    let _ = stream.write_all(&sent);
                }
                let _ = stream.shutdown(Shutdown::Write);
                stream.set_nonblocking(random.below(2) == 0).unwrap();
                let _ = stream.read(&mut [0; 100]);
            }
        });
        assert!(largest < 2 * VALUE_BYTES_MAX, "{largest}");
    });
}

/// What a server that is not ours says to a client.
#[test]
fn a7_bytes_from_a_host_that_is_none() {
    guarded_for(limit(), || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for (seed, stream) in listener.incoming().enumerate() {
                let (mut random, mut stream) = (Random(seed as u64), stream.unwrap());
                let n = [0, 1, 39, 40, 41, 73, 5000][random.below(7)];
                let mut bytes = random.bytes(n);
                if n >= 40 {
                    bytes[..8].copy_from_slice(b"SEQPARS1");
                }
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        allocations::begin();
        for seed in 0..seeds() {
            let begin = Instant::now();
            let deadline = begin + Duration::from_millis(100);
            let error = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), deadline).unwrap_err();
            let Error::Between(failure) = error else { panic!("seed {seed}: {error:?}") };
            let kinds = [FailureKind::AuthRejected, FailureKind::RendezvousTimeout];
            assert!(kinds.contains(&failure.kind), "seed {seed}: {failure:?}");
            assert!(begin.elapsed() < Duration::from_millis(600), "seed {seed}");
        }
        assert!(allocations::peak().1 < 64 << 10);
    });
}

#[test]
fn a_host_with_another_key_is_not_believed() {
    let other = Key::from_bytes(OTHER_KEY.as_bytes()).unwrap();
    let host = TcpStore::serve(&other, &TcpOptions::default()).unwrap();
    let error = TcpStore::connect(&host.address().to_string(), 1, &key(), &TcpOptions::default(), soon()).unwrap_err();
    assert!(error.to_string().contains("does not carry the job's key"), "{error}");
}

#[test]
fn a_host_that_only_says_welcome_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[b"SEQPARS1".as_slice(), &[1; 32]].concat()).unwrap();
        stream.read_exact(&mut [0; 72]).unwrap();
        stream.write_all(&[0; 33]).unwrap();
    });
    let error = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), soon()).unwrap_err();
    assert!(error.to_string().contains("does not carry the job's key"), "{error}");
}
