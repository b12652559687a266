//! The client of torchrun's store, against a small server written from PyTorch's source. What
//! PyTorch itself does with it is shown by `scripts/torch_store.sh`, which needs its wheel.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::launch::{Explicit, from_environment};
use seqpar::rendezvous::{Hello, Store, TorchStore, exchange_id, join};

use crate::stalls::unless_stalled;
use crate::tcp::soon;

type Values = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// A server that lives as long as this process; its address.
pub fn server() -> String {
    serve(query)
}

fn serve(answer: fn(&mut TcpStream, u8, &Values) -> Option<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let values = Values::default();
        for stream in listener.incoming() {
            let (mut stream, values) = (stream.unwrap(), values.clone());
            std::thread::spawn(move || {
                // VALIDATE, and the magic number.
                assert_eq!(take::<1>(&mut stream)?, [0]);
                assert_eq!(u32::from_ne_bytes(take(&mut stream)?), 0x3c85_f7ce);
                loop {
                    let [what] = take::<1>(&mut stream)?;
                    answer(&mut stream, what, &values)?;
                }
                #[allow(unreachable_code)]
                Some(())
            });
        }
    });
    address
}

fn take<const N: usize>(stream: &mut TcpStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn vector(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; u64::from_ne_bytes(take(stream)?) as usize];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn give(stream: &mut TcpStream, value: &[u8]) -> Option<()> {
    stream.write_all(&[&(value.len() as u64).to_ne_bytes(), value].concat()).ok()
}

fn query(stream: &mut TcpStream, what: u8, values: &Values) -> Option<()> {
    match what {
        1 => {
            let (key, value) = (vector(stream)?, vector(stream)?);
            values.lock().unwrap().insert(key, value);
            Some(())
        }
        2 => {
            let (key, expected, new) = (vector(stream)?, vector(stream)?, vector(stream)?);
            let mut values = values.lock().unwrap();
            let answer = match values.get(&key) {
                None if !expected.is_empty() => expected,
                Some(there) if *there != expected => there.clone(),
                _ => {
                    values.insert(key, new.clone());
                    new
                }
            };
            give(stream, &answer)
        }
        3 => {
            let key = vector(stream)?;
            // A key that is not there throws, and the connection is closed.
            let value = values.lock().unwrap().get(&key)?.clone();
            give(stream, &value)
        }
        5 => {
            let count = u64::from_ne_bytes(take(stream)?);
            let keys: Vec<_> = (0..count).map(|_| vector(stream)).collect::<Option<_>>()?;
            let values = values.lock().unwrap();
            stream.write_all(&[u8::from(!keys.iter().all(|key| values.contains_key(key)))]).ok()
        }
        other => panic!("query {other}"),
    }
}

/// Two clients of one server.
pub fn pair() -> (TorchStore, TorchStore) {
    let address = server();
    let connect = || TorchStore::connect(&address, soon()).unwrap();
    (connect(), connect())
}

#[test]
fn an_agent_that_never_comes() {
    unless_stalled(|| {
        assert!(TorchStore::connect("agent", soon()).unwrap_err().to_string().contains("is not host:port"));
        let begin = Instant::now();
        let error =
            TorchStore::connect(&crate::places::free_address(), begin + Duration::from_millis(300)).unwrap_err();
        let Error::Between(failure) = error else { panic!("{error:?}") };
        assert_eq!(failure.kind, FailureKind::RendezvousTimeout);
        assert!(begin.elapsed() < Duration::from_millis(800));
    });
}

#[test]
fn answers_that_make_no_sense_are_errors_in_time() {
    unless_stalled(|| {
        let silent = |_: &mut TcpStream, _: u8, _: &Values| Some(());
        let closes = |_: &mut TcpStream, _: u8, _: &Values| None;
        let huge = |stream: &mut TcpStream, _: u8, _: &Values| stream.write_all(&[0xff; 64]).ok();
        let foreign = |stream: &mut TcpStream, _: u8, _: &Values| give(stream, b"not seqpar's");
        let dripping = |stream: &mut TcpStream, _: u8, _: &Values| {
            for _ in 0..100 {
                stream.write_all(&[0]).ok()?;
                std::thread::sleep(Duration::from_millis(300));
            }
            Some(())
        };
        for answer in [silent, closes, huge, foreign, dripping] {
            let store = TorchStore::connect(&serve(answer), soon()).unwrap();
            let begin = Instant::now();
            assert!(store.claim("a", b"b").is_err());
            // What is broken off halfway is not gone on with.
            assert!(store.claim("a", b"b").is_err());
            assert!(begin.elapsed() < Duration::from_millis(4500), "{:?}", begin.elapsed());
        }
    });
}

/// One that answered too late, or whose connection broke, is asked anew.
#[test]
fn a_broken_connection_is_made_again() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let once = |stream: &mut TcpStream, what: u8, values: &Values| match CALLS.fetch_add(1, Ordering::Relaxed) {
        0 => None,
        _ => query(stream, what, values),
    };
    let store = TorchStore::connect(&serve(once), soon()).unwrap();
    assert!(store.claim("a", b"b").is_err());
    assert_eq!(store.claim("a", b"b").unwrap(), b"b");
    assert_eq!(store.read("a").unwrap().unwrap(), b"b");
}

/// PyTorch's programs, where `scripts/torch_store.sh` put them.
fn program(name: &str) -> std::path::PathBuf {
    std::path::PathBuf::from(std::env::var("SEQPAR_TORCH_BIN").expect("run scripts/torch_store.sh")).join(name)
}

const SERVE: &str = "
import sys
from torch.distributed import TCPStore
store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False, use_libuv=sys.argv[1] == 'libuv')
print('port:', store.port, flush=True)
sys.stdin.read()
";

#[test]
#[ignore = "needs PyTorch: scripts/torch_store.sh"]
fn pytorchs_own_servers_keep_the_promises_of_a_store() {
    for backend in ["libuv", "older"] {
        let mut python = Command::new(program("python"))
            .args(["-c", SERVE, backend])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(python.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = format!("127.0.0.1:{}", line.trim().strip_prefix("port: ").unwrap());
        for check in crate::stores::CHECKS {
            let connect = || Arc::new(TorchStore::connect(&address, soon()).unwrap());
            check(backend, connect(), connect());
        }
        println!("{backend}: {} checks", crate::stores::CHECKS.len());
        drop(python.stdin.take());
        assert!(python.wait().unwrap().success());
    }
}

#[test]
#[ignore = "needs PyTorch: scripts/torch_store.sh"]
fn ranks_under_torchrun_meet_in_its_agents_store() {
    let output = Command::new(program("torchrun"))
        .args(["--standalone", "--nproc-per-node", "4", "--no-python"])
        .arg(std::env::current_exe().unwrap())
        .args(crate::ranks::CHILD)
        .env(crate::ranks::TASK, "torchrun")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    for rank in 0..4 {
        assert!(text.contains(&format!("rank {rank} of 4 has the id")), "{text}\n{errors}");
    }
}

/// One of them; run by `ranks::a_child`.
pub fn under_torchrun() {
    let launch = from_environment(&Explicit::default()).unwrap().unwrap();
    assert!(launch.serves_store, "{launch:?}");
    let (host, port) = launch.address.clone().unwrap();
    let deadline = soon() + Duration::from_secs(8);
    let store = TorchStore::connect(&format!("{host}:{port}"), deadline).unwrap();
    let key = crate::tcp::key();
    let hello = Hello::new(launch.rank, launch.world, key.nonce(launch.job.as_deref().unwrap())).unwrap();
    let members = join(&store, &key, &hello, deadline).unwrap();
    let id = exchange_id(&store, &key, &members, "world", || Ok(crate::ranks::secret_id()), deadline).unwrap();
    assert!(id == crate::ranks::secret_id());
    crate::ranks::say(&format!("rank {} of {} has the id", launch.rank, launch.world));
}
