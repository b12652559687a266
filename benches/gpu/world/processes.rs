//! Ranks as processes of their own on one GPU, as users start them: this program again, a rank each.
//! They meet through a folder. Nothing outlives its parent, which ends them all at a limit.
//!
//! Each rank is its own NCCL "host", so that NCCL lets several onto one GPU; they talk through
//! sockets. On the mock driver ranks of NCCL are threads instead, each with a device of its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use seqpar::comm::nccl::{Communicator, Config, Library, UniqueId};
use seqpar::cuda::{Context, Priority, Stream};
use seqpar::rendezvous::{FileStore, Hello, Key, exchange_id, join};
use serde_json::{Value, json};

use crate::ground::{Done, MOCK};

/// In a rank's environment: rank, world, folder, what is wanted of it.
const SEAT: &str = "SEQPAR_BUNDLE_SEAT";

/// For ranks to meet; eight contexts on one device take their time.
pub(crate) const MEETING: Duration = Duration::from_secs(40);

/// What a rank does; what it returns is told to the parent.
pub(crate) type Body = fn(&Seat) -> Done<Value>;

/// One rank.
pub(crate) struct Seat {
    pub(crate) rank: usize,
    pub(crate) world: usize,
    pub(crate) folder: PathBuf,
    pub(crate) wants: String,
    pub(crate) mock: bool,
}

impl Seat {
    /// The rank that this process is.
    pub(crate) fn taken(mock: bool) -> Done<Self> {
        let text = std::env::var(SEAT)?;
        let words: Vec<&str> = text.splitn(4, '|').collect();
        let [rank, world, folder, wants] = words[..] else { return Err(format!("{SEAT} is {text}").into()) };
        Ok(Self { rank: rank.parse()?, world: world.parse()?, folder: folder.into(), wants: wants.into(), mock })
    }

    /// Its device's context, kept to the end of the process.
    pub(crate) fn context(&self) -> Done<Context> {
        let device = if self.mock { self.rank as i32 } else { 0 };
        std::mem::forget(Context::primary(device)?);
        Ok(Context::primary(device)?)
    }

    pub(crate) fn store(&self) -> Done<Arc<FileStore>> {
        Ok(Arc::new(FileStore::open(&self.folder, "job")?))
    }

    pub(crate) fn library(&self) -> Done<Library> {
        Ok(Library::load(None)?)
    }

    /// Joins all ranks, as users do: hello, id, communicator.
    pub(crate) fn communicator(&self, config: &Config) -> Done<Communicator> {
        let (library, store, until) = (self.library()?, self.store()?, Instant::now() + MEETING);
        let key = Key::from_file(&self.folder.join("key"))?;
        let mut hello = Hello::new(self.rank, self.world, key.nonce("bundle"))?;
        hello.nccl_version = library.version();
        let members = join(&*store, &key, &hello, until)?;
        let id = exchange_id(&*store, &key, &members, "world", || Ok(library.unique_id()?.as_bytes()), until)?;
        Ok(Communicator::new(&library, &UniqueId::from_bytes(id), self.rank, self.world, config, MEETING)?)
    }

    /// `real`, or `mock` on the mock.
    pub(crate) fn pick<T>(&self, real: T, mock: T) -> T {
        if self.mock { mock } else { real }
    }

    pub(crate) fn stream(&self) -> Done<Stream> {
        Ok(Stream::new(Priority::High)?)
    }

    /// Tells the parent how far it is.
    pub(crate) fn note(&self, what: &str, text: &str) -> Done {
        write(&self.folder.join(format!("{what}-{}", self.rank)), text)
    }

    /// On the mock, where ranks are threads: whether it is to be dead. A body that may be killed asks
    /// again and again, and returns without giving up anything.
    pub(crate) fn is_killed(&self) -> bool {
        self.mock && self.folder.join(format!("killed-{}", self.rank)).exists()
    }

    /// Waits until the parent or another rank has left that note.
    pub(crate) fn await_note(&self, what: &str, limit: Duration) -> Done {
        await_file(&self.folder.join(what), limit)
    }
}

fn await_file(path: &Path, limit: Duration) -> Done {
    let begin = Instant::now();
    while !path.exists() {
        if begin.elapsed() > limit {
            return Err(format!("{} did not come", path.display()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Done {
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    Ok(fs::rename(part, path)?)
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}

/// How a body ended, as a line for the parent.
pub(crate) fn told(result: Done<Value>) -> Value {
    match result {
        Ok(value) => json!({ "at_ms": now_ms(), "value": value }),
        Err(error) => json!({ "at_ms": now_ms(), "error": error.to_string() }),
    }
}

/// Runs a body as the rank that this process is.
pub(crate) fn sit(seat: &Seat, body: Body) -> Done {
    write(&seat.folder.join(format!("told-{}", seat.rank)), &told(body(seat)).to_string())
}

/// How ranks are started.
pub(crate) struct Start<'a> {
    /// Name of the body in this program's list, and itself, for threads.
    pub(crate) name: &'a str,
    pub(crate) body: Body,
    pub(crate) world: usize,
    /// Those that are started, `world` by default.
    pub(crate) ranks: Vec<usize>,
    pub(crate) wants: &'a str,
    /// Each rank a host of its own for NCCL.
    pub(crate) hosts: bool,
    pub(crate) environment: Vec<(&'a str, &'a str)>,
    /// Threads of this process, which is what NCCL's ranks are on the mock.
    pub(crate) threads: bool,
}

impl<'a> Start<'a> {
    pub(crate) fn new(name: &'a str, body: Body, world: usize, wants: &'a str) -> Self {
        let (ranks, environment) = ((0..world).collect(), Vec::new());
        let threads = std::env::var_os(MOCK).is_some();
        Self { name, body, world, ranks, wants, hosts: true, environment, threads }
    }

    pub(crate) fn start(self) -> Done<Ranks> {
        let unique = format!("seqpar-{}-{}-{}-{}", std::process::id(), self.name, self.world, now_ms());
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir(&folder)?;
        let mut ranks = Ranks { folder, started: self.ranks.clone(), children: Vec::new(), threads: Vec::new() };
        private(&ranks.folder, 0o700)?;
        let key = ranks.folder.join("key");
        fs::write(&key, format!("{:032}", now_ms() as u128 * u128::from(std::process::id())))?;
        private(&key, 0o600)?;
        for &rank in &self.ranks {
            if self.threads {
                let (folder, wants, body) = (ranks.folder.clone(), self.wants.to_string(), self.body);
                let seat = Seat { rank, world: self.world, folder, wants, mock: true };
                ranks.threads.push(std::thread::spawn(move || told(body(&seat))));
            } else {
                let child = self.command(rank, &ranks.folder)?.spawn()?;
                ranks.children.push(child);
            }
        }
        Ok(ranks)
    }

    fn command(&self, rank: usize, folder: &Path) -> Done<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["rank", self.name]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(folder.join(format!("stderr-{rank}")))?);
        command.env(SEAT, format!("{rank}|{}|{}|{}", self.world, folder.display(), self.wants));
        for (name, value) in [
            ("NCCL_NET", "Socket"),
            ("NCCL_IB_DISABLE", "1"),
            ("NCCL_SOCKET_IFNAME", "=lo"),
            ("NCCL_SOCKET_FAMILY", "AF_INET"),
            ("NCCL_P2P_DISABLE", "1"),
            ("NCCL_SHM_DISABLE", "1"),
            ("NCCL_MAX_CTAS", "2"),
            ("NCCL_ALGO", "Ring"),
            ("NCCL_PROTO", "Simple"),
            ("NCCL_BUFFSIZE", "1048576"),
            ("NCCL_RAS_ENABLE", "0"),
            ("NCCL_NVLS_ENABLE", "0"),
            ("NCCL_SOCKET_RETRY_CNT", "10"),
            ("CUDA_MODULE_LOADING", "EAGER"),
            ("NCCL_DEBUG", "WARN"),
        ] {
            command.env(name, value);
        }
        if self.hosts {
            command.env("NCCL_HOSTID", format!("{}-r{rank}", folder.display()));
        }
        command.envs(self.environment.iter().copied());
        // SAFETY: between fork and exec it makes one system call.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(command)
    }
}

fn private(path: &Path, mode: u32) -> Done {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Ranks under way.
pub(crate) struct Ranks {
    pub(crate) folder: PathBuf,
    started: Vec<usize>,
    children: Vec<Child>,
    threads: Vec<JoinHandle<Value>>,
}

impl Ranks {
    pub(crate) fn await_note(&self, what: &str, rank: usize, limit: Duration) -> Done {
        await_file(&self.folder.join(format!("{what}-{rank}")), limit)
    }

    /// Sends a signal to a rank that is a process; when that was.
    pub(crate) fn signal(&self, rank: usize, signal: i32) -> u64 {
        if let Some(at) = self.started.iter().position(|of| *of == rank) {
            // SAFETY: a child that was not waited for.
            self.children.get(at).map(|child| unsafe { libc::kill(child.id() as i32, signal) });
        }
        now_ms()
    }

    /// Kills a rank; when that was.
    pub(crate) fn kill(&self, rank: usize) -> Done<u64> {
        if self.children.is_empty() {
            write(&self.folder.join(format!("killed-{rank}")), "")?;
        }
        Ok(self.signal(rank, libc::SIGKILL))
    }

    /// Waits until all ranks have said that they are going, and a little longer.
    pub(crate) fn going(&mut self) -> Done {
        for rank in self.started.clone() {
            if let Err(why) = self.await_note("going", rank, MEETING) {
                let told = self.end(Duration::ZERO)?;
                return Err(format!("{why}; the ranks told {told:?}").into());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    /// What each rank told, in the order of start; who has not ended by the limit is ended.
    pub(crate) fn end(&mut self, limit: Duration) -> Done<Vec<Value>> {
        let begin = Instant::now();
        let running = |children: &mut Vec<Child>| children.iter_mut().any(|child| matches!(child.try_wait(), Ok(None)));
        while running(&mut self.children) || self.threads.iter().any(|thread| !thread.is_finished()) {
            if begin.elapsed() > limit {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut all = Vec::new();
        for (at, rank) in self.started.iter().enumerate() {
            if let Some(child) = self.children.get_mut(at) {
                let ended = child.try_wait()?;
                let _ = child.kill();
                let _ = child.wait();
                let told = fs::read_to_string(self.folder.join(format!("told-{rank}"))).ok();
                let stderr = fs::read_to_string(self.folder.join(format!("stderr-{rank}"))).unwrap_or_default();
                eprint!("{}", stderr.lines().map(|line| format!("rank {rank}: {line}\n")).collect::<String>());
                all.push(match (told.and_then(|told| serde_json::from_str(&told).ok()), ended) {
                    (Some(told), _) => told,
                    (None, Some(status)) => json!({ "error": format!("ended with {status}"), "silent": true }),
                    (None, None) => json!({ "error": format!("did not end within {limit:?}"), "silent": true }),
                });
            }
        }
        for thread in self.threads.drain(..) {
            // A thread that hangs hangs the case, whose own limit ends it.
            all.push(thread.join().unwrap_or_else(|_| json!({ "error": "panicked" })));
        }
        Ok(all)
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The values of ranks that all ended well, else the first error.
pub(crate) fn all_well(told: Vec<Value>) -> Done<Vec<Value>> {
    for (rank, told) in told.iter().enumerate() {
        if let Some(error) = told.get("error") {
            return Err(format!("rank {rank}: {}", error.as_str().unwrap_or("?")).into());
        }
    }
    Ok(told.into_iter().map(|mut told| told["value"].take()).collect())
}

/// Waits until the stream is done, not for longer than `limit`, and for no op that has failed.
pub(crate) fn settled(communicator: &Communicator, stream: &Stream, limit: Duration) -> Done {
    let begin = Instant::now();
    while !stream.is_done()? {
        communicator.async_error()?;
        if begin.elapsed() > limit {
            return Err(format!("the device is not done after {limit:?}").into());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(communicator.async_error()?)
}
