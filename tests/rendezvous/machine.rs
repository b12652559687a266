//! A20: no descriptor leaks into children, and a machine without descriptors or space gives errors
//! that say so, at once, and leaves nothing half-written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::{FileStore, Interface, Key, Store, TcpOptions, TcpStore};

use crate::guard::guarded;
use crate::ranks::{KEY, Process, say, until_told};
use crate::tcp::{key, pair, soon};

#[test]
fn a20_children_inherit_nothing_of_ours() {
    guarded(|| {
        let descriptors = || -> BTreeSet<String> {
            fs::read_dir("/proc/self/fd")
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let before = descriptors();
        let (host, client) = pair();
        let every =
            TcpStore::serve(&key(), &TcpOptions { interface: Interface::Every, ..TcpOptions::default() }).unwrap();
        let file = FileStore::open(&crate::file::folder(), "g").unwrap();
        file.set("a", b"b").unwrap();
        client.claim("a", b"b").unwrap();
        #[cfg(feature = "torchrun")]
        let _torch = seqpar::rendezvous::TorchStore::connect(&crate::torch::server(), soon()).unwrap();
        let new: Vec<_> = descriptors().difference(&before).cloned().collect();
        assert!(new.len() >= 4, "two listeners and two ends of a connection: {new:?}");
        for number in new {
            // One that the directory was listed with is gone.
            let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { continue };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert!(flags & libc::O_CLOEXEC as u32 != 0, "{number}: {info}");
        }
        let seen = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        assert!(!seen.is_empty() && !seen.contains("socket:"), "{seen}");
        drop((host, every));
    });
}

/// A process with room for 64 descriptors serves a rank among 300 strangers, who would take it
/// five seconds to outlast.
#[test]
fn a20_a_host_with_few_descriptors() {
    guarded(|| {
        let mut host = Process::start("machine few");
        let address = host.line("address: ").unwrap();
        let begin = Instant::now();
        let strangers: Vec<_> = (0..300).map(|_| TcpStream::connect(&address).unwrap()).collect();
        let deadline = begin + Duration::from_secs(10);
        let client = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), deadline).unwrap();
        client.set("a", b"b").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        drop(strangers);
    });
}

#[test]
fn a20_no_descriptor_left() {
    guarded(|| ended_well(Process::start("machine none")));
}

/// Also where no file system of one's own can be mounted.
#[test]
fn a20_files_may_not_grow() {
    guarded(|| ended_well(Process::start("machine small")));
}

#[test]
fn a20_a_full_file_system() {
    guarded(|| on_a_file_system_of_its_own("full", "mount -t tmpfs -o size=96k none"));
}

#[test]
fn a20_a_read_only_file_system() {
    guarded(|| on_a_file_system_of_its_own("readonly", "mount -t tmpfs -o ro none"));
    // Where nothing can be mounted, /proc takes no folder either.
    let error = FileStore::open(Path::new("/proc/seqpar"), "g").unwrap_err();
    assert!(matches!(kind(&error), FailureKind::Store { .. }), "{error}");
}

fn on_a_file_system_of_its_own(what: &str, mount: &str) {
    let allowed = Command::new("unshare").args(["-Urm", "true"]).output().is_ok_and(|output| output.status.success());
    if !allowed {
        println!("note: A20, {what}: skipped, since this machine lets nobody mount (unshare -Urm)");
        return;
    }
    let folder = crate::file::folder();
    fs::create_dir(&folder).unwrap();
    let script = format!("{mount} '{}' && exec \"$0\" \"$@\"", folder.display());
    let task = format!("machine {what} {}", folder.display());
    ended_well(Process::start_under(&task, &["unshare", "-Urm", "sh", "-c", &script]));
}

fn ended_well(mut process: Process) {
    assert_eq!(process.line("machine: ").as_deref(), Some("well"));
}

fn kind(error: &Error) -> &FailureKind {
    let Error::Between(failure) = error else { panic!("{error:?}") };
    &failure.kind
}

/// What the children above do; run by `ranks::a_child`.
pub fn task(words: &str) {
    let (what, folder) = words.split_once(' ').unwrap_or((words, ""));
    match what {
        "few" => {
            limit(libc::RLIMIT_NOFILE, 64);
            let store = TcpStore::serve(&key(), &TcpOptions::default()).unwrap();
            say(&format!("address: {}", store.address()));
            return until_told();
        }
        "none" => no_descriptor(),
        "small" => {
            // SAFETY: changes what a signal does in this process alone.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let folder = crate::file::folder();
            let store = FileStore::open(&folder, "g").unwrap();
            store.set("kept", b"0123456789").unwrap();
            limit(libc::RLIMIT_FSIZE, 100);
            no_space(&store, &folder);
        }
        "full" => {
            let folder = Path::new(folder).join("store");
            let store = FileStore::open(&folder, "g").unwrap();
            store.set("kept", b"0123456789").unwrap();
            while store.set(&format!("fill/{}", fs::read_dir(folder.join("g")).unwrap().count()), &[1; 4096]).is_ok() {}
            no_space(&store, &folder);
        }
        "readonly" => {
            let error = FileStore::open(&Path::new(folder).join("store"), "g").unwrap_err();
            assert!(matches!(kind(&error), FailureKind::Store { .. }), "{error}");
            assert!(error.to_string().contains("Read-only file system"), "{error}");
        }
        other => panic!("{other}"),
    }
    say("machine: well");
}

fn limit(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: reads the struct.
    assert_eq!(unsafe { libc::setrlimit(what, &limit) }, 0);
}

fn no_space(store: &FileStore, folder: &Path) {
    let files = || fs::read_dir(folder.join("g")).unwrap().map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>();
    let before = files();
    let begin = Instant::now();
    for error in [
        store.set("new", &[2; 4096]).unwrap_err(),
        store.set("kept", &[2; 4096]).unwrap_err(),
        store.claim("claimed", &[2; 4096]).unwrap_err(),
    ] {
        assert!(matches!(kind(&error), FailureKind::Store { .. }), "{error}");
        assert!(error.to_string().contains("free it or take another folder"), "{error}");
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(store.read("kept").unwrap().unwrap(), b"0123456789", "an old value outlives a failed one");
    assert_eq!(store.read("new").unwrap(), None);
    assert_eq!(files(), before, "nothing half-written");
}

fn no_descriptor() {
    limit(libc::RLIMIT_NOFILE, 64);
    let (folder, secret) = (crate::file::folder(), crate::file::folder());
    fs::write(&secret, KEY).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let store = FileStore::open(&folder, "g").unwrap();
    store.set("a", b"b").unwrap();
    let (host, client) = pair();
    let other = TcpStore::serve(&key(), &TcpOptions::default()).unwrap();
    let address = other.address();
    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    let begin = Instant::now();
    for error in [
        FileStore::open(&folder, "h").unwrap_err(),
        store.set("a", b"c").unwrap_err(),
        store.read("a").unwrap_err(),
        store.claim("d", b"c").unwrap_err(),
        TcpStore::serve(&key(), &TcpOptions::default()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("Too many open files"), "{error}");
        assert!(matches!(kind(&error), FailureKind::Store { .. }), "{error}");
    }
    assert!(Key::from_file(&secret).unwrap_err().to_string().contains("Too many open files"));
    let shortly = Instant::now() + Duration::from_millis(200);
    assert!(TcpStore::connect("127.0.0.1:9", 1, &key(), &TcpOptions::default(), shortly).is_err());
    // What is open already goes on.
    client.set("a", b"c").unwrap();
    assert_eq!(host.read("a").unwrap().unwrap(), b"c");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // Its end needs none: the port is free again.
    drop(other);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(all);
    drop(TcpListener::bind(address).unwrap());
    store.set("a", b"c").unwrap();
    assert_eq!(store.read("a").unwrap().unwrap(), b"c");
    Key::from_file(&secret).unwrap();
    TcpStore::connect(&host.address().to_string(), 2, &key(), &TcpOptions::default(), soon()).unwrap();
}
