//! Breaks a copy of the sources in one place, builds it, and has the real tests judge it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::emulation::build;
use crate::mutant::{Change, Family, Mutant, Narrow};

/// Longer than the slowest test by far; a broken kernel may poll for ever. Of the processor, since a
/// busy machine must not look like a broken kernel.
const CPU_LIMIT_S: u64 = 240;
/// For a test that sleeps.
const LIMIT: Duration = Duration::from_secs(3600);
const SIGXCPU: i32 = 24;
/// The tests draw sizes and schedules from this, so that a result can be repeated.
const SEED: &str = "1";

/// The test binaries, built by cargo.
pub struct Binaries(Vec<(String, PathBuf)>);

impl Binaries {
    pub fn build(names: &[&str]) -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["test", "--no-run", "--message-format=json"]);
        // As this test was built: another set would take the place of the library that others link.
        let sets = [
            ("nccl", cfg!(feature = "nccl")),
            ("torchrun", cfg!(feature = "torchrun")),
            ("nvtx", cfg!(feature = "nvtx")),
        ];
        sets.iter().filter(|(_, on)| *on).for_each(|(feature, _)| {
            cargo.args(["--features", feature]);
        });
        names.iter().for_each(|name| {
            cargo.args(["--test", name]);
        });
        let output = cargo.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "cargo test --no-run failed");
        let text = String::from_utf8(output.stdout).unwrap();
        let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let found = messages
            .filter_map(|m| Some((m["target"]["name"].as_str()?.to_owned(), PathBuf::from(m["executable"].as_str()?))));
        Self(found.collect())
    }

    fn path(&self, name: &str) -> &Path {
        &self.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no test binary {name}")).1
    }
}

/// What the tests said of a tree: None if all pass.
pub type Judgement = Option<String>;

/// Of each mutant, two side by side; `done` hears of each at once.
pub fn judge_all(mutants: &[&Mutant], binaries: &Binaries, done: impl Fn(&Mutant, Judgement) + Sync) {
    let next = Mutex::new(0);
    let work = || {
        loop {
            let i = {
                let mut next = next.lock().unwrap();
                *next += 1;
                *next - 1
            };
            let Some(mutant) = mutants.get(i) else { return };
            done(mutant, judge(mutant, binaries));
        }
    };
    std::thread::scope(|scope| {
        (0..2).for_each(|_| {
            scope.spawn(work);
        });
    });
}

pub fn judge(mutant: &Mutant, binaries: &Binaries) -> Judgement {
    let narrow = mutant.family.narrow.as_ref().and_then(|narrow| judge_of(mutant, Some(narrow), binaries));
    narrow.or_else(|| judge_of(mutant, None, binaries))
}

fn judge_of(mutant: &Mutant, narrow: Option<&Narrow>, binaries: &Binaries) -> Judgement {
    let tree = Tree::of(mutant.family, narrow);
    let mut fault = None;
    match mutant.change {
        Change::Text { file, find, put, times } => tree.replace(file, find, put, times, &mutant.name()),
        Change::Launch(name) => fault = Some(name),
    }
    tree.judge(mutant.family, narrow, binaries, fault)
        .unwrap_or_else(|e| panic!("{} does not compile:\n{e}", mutant.name()))
}

/// The tests of a family pass on a tree where nothing is broken.
pub fn assert_control(family: &Family, binaries: &Binaries) {
    let narrow = family.narrow.as_ref();
    let judgement = Tree::of(family, narrow).judge(family, narrow, binaries, None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(judgement, None, "{}: the unbroken kernels fail", family.name);
}

/// What is wrong with the place that a mutant names, if anything.
pub fn misplaced(mutant: &Mutant) -> Option<String> {
    let Change::Text { file, find, times, .. } = mutant.change else { return None };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc").join(file);
    let occurs = fs::read_to_string(&path).ok()?.matches(find).count();
    (occurs != times).then(|| format!("{}: {occurs} places, {times} wanted", mutant.name()))
}

/// A copy of the sources with one family's kernels; removed when dropped.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn of(family: &Family, narrow: Option<&Narrow>) -> Self {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("mutants/{}-{count}", std::process::id());
        let tree = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in ["csrc", "include"] {
            copy(&from.join(part), &tree.0.join(part), family.sources);
        }
        if let Some(narrow) = narrow {
            let path = tree.0.join("csrc/kernels").join(family.sources[0]);
            let text = fs::read_to_string(&path).unwrap();
            let variant = |line: &str| narrow.lines.iter().any(|begin| line.starts_with(begin));
            let kept = text.split_inclusive('\n').filter(|line| !variant(line) || line.contains(narrow.kept));
            fs::write(&path, kept.collect::<String>()).unwrap();
        }
        tree
    }

    fn replace(&self, file: &str, find: &str, put: &str, times: usize, name: &str) {
        let path = self.0.join("csrc").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(find).count(), times, "{name}: occurrences of \"{find}\"");
        fs::write(&path, text.replace(find, put)).unwrap();
    }

    fn judge(
        &self,
        family: &Family,
        narrow: Option<&Narrow>,
        binaries: &Binaries,
        fault: Option<&str>,
    ) -> Result<Judgement, String> {
        build::library(&self.0, build::KERNELS)?;
        let chosen = narrow.and_then(|narrow| narrow.tests).unwrap_or(family.tests);
        let tests = chosen.iter().flat_map(|(binary, tests)| tests.iter().map(move |test| (binary, test)));
        Ok(tests.into_iter().find_map(|(binary, test)| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -S -t {CPU_LIMIT_S}; exec \"$0\" \"$@\"")]).arg(binaries.path(binary));
            command.args([test, "--exact", "--test-threads", "1", "--nocapture"]);
            family.arch.map(|arch| command.env("SEQPAR_ARCH", arch));
            narrow.map(|narrow| command.env(narrow.set.0, narrow.set.1));
            fault.map(|fault| command.env("SEQPAR_BROKEN_LAUNCH", fault));
            Some(format!("{test}: {}", self.run(command)?))
        }))
    }

    /// How a test fails, if it does.
    fn run(&self, mut command: Command) -> Option<String> {
        let log = self.0.join("log");
        command.env("SEQPAR_SOURCE_ROOT", &self.0).env("SEQPAR_TEST_SEED", SEED).env("RUST_BACKTRACE", "0");
        fs::write(&log, "").unwrap();
        let append = || fs::File::options().append(true).open(&log).unwrap();
        command.stdout(append()).stderr(append());
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                return Some(format!("no end within {} s", LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        if status.signal() == Some(SIGXCPU) {
            return Some(format!("no end within {CPU_LIMIT_S} s"));
        }
        if status.success() {
            assert!(text.contains("1 passed"), "{command:?}: no such test");
            return None;
        }
        Some(first_complaint(&text).unwrap_or_else(|| format!("{status}")))
    }
}

/// The emulation's first report where there is one, else the first line of the panic.
fn first_complaint(text: &str) -> Option<String> {
    let message = text.split_once("panicked at ")?.1;
    let mut lines = message.lines().skip(1).take_while(|line| !line.starts_with("note: run with"));
    let first = lines.next()?;
    let complaint = lines.next().filter(|line| line.contains(" [block ") || line.contains("DEADLOCK")).unwrap_or(first);
    // A wrong value comes behind a long description of the case.
    let from = complaint.find(" element ").map_or(0, |at| at + 1);
    Some(complaint[from..].trim().chars().take(160).collect())
}

fn copy(from: &Path, to: &Path, sources: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, sources);
        } else if path.extension().is_none_or(|e| e != "cu") || sources.iter().any(|source| path.ends_with(source)) {
            fs::copy(&path, &target).unwrap();
        }
    }
}
