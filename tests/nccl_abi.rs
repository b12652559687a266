//! Our declarations of NCCL (`src/ffi/nccl`) against its header and itself, both from the wheel
//! that `scripts/nccl_wheel.sh` unpacks under `target/`.
//!
//! The declarations are read as text and written down once more in C: values as static assertions,
//! structs beside the header's, functions as pointers of our types to the header's functions. What
//! differs does not compile. The header needs CUDA's for one name, so empty ones stand in.
#![cfg(all(feature = "nccl", target_os = "linux"))]

#[allow(dead_code)]
#[path = "../src/ffi/nccl/abi.rs"]
mod abi;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, Library};
use seqpar::error::{Error, FailureKind};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folder with include/ and lib/.
fn wheel() -> PathBuf {
    let output = Command::new(root().join("scripts/nccl_wheel.sh")).output().expect("scripts/nccl_wheel.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// What our sources declare.
struct Declared {
    /// Name, type, value.
    constants: Vec<[String; 3]>,
    /// Name, type.
    aliases: Vec<[String; 2]>,
    /// Name, and name and type of each field.
    structs: Vec<(String, Vec<[String; 2]>)>,
    /// Field and value of the initializer.
    initial: Vec<[String; 2]>,
    /// Name, types of the parameters, type of the result.
    functions: Vec<(String, Vec<String>, String)>,
}

fn sources() -> (String, String) {
    let read = |name: &str| fs::read_to_string(root().join("src/ffi/nccl").join(name)).unwrap();
    (read("abi.rs"), read("functions.rs"))
}

impl Declared {
    fn of(abi: &str, functions: &str) -> Self {
        let mut all = Self { constants: vec![], aliases: vec![], structs: vec![], initial: vec![], functions: vec![] };
        let mut in_initial = false;
        for line in abi.lines() {
            let line = line.trim().trim_end_matches([',', ';']);
            let item = line.strip_prefix("pub(crate) ");
            if line.contains("const CONFIG_INITIALIZER") || line == "}" {
                in_initial = line != "}";
            } else if in_initial {
                all.initial.push(line.split_once(": ").map(|(name, value)| [name, value].map(String::from)).unwrap());
            } else if let Some(rest) = item.and_then(|item| item.strip_prefix("const ")) {
                let (name, rest) = rest.split_once(": ").unwrap();
                let (kind, value) = rest.split_once(" = ").unwrap();
                all.constants.push([name, kind, value].map(String::from));
            } else if let Some(rest) = item.and_then(|item| item.strip_prefix("type ")) {
                all.aliases.push(rest.split_once(" = ").map(|(name, kind)| [name, kind].map(String::from)).unwrap());
            } else if let Some(rest) = item.and_then(|item| item.strip_prefix("struct ")) {
                all.structs.push((rest.trim_end_matches(" {").into(), Vec::new()));
            } else if let Some(field) = item.filter(|item| item.contains(": ") && !item.starts_with("fn ")) {
                let field = field.split_once(": ").map(|(name, kind)| [name, kind].map(String::from)).unwrap();
                all.structs.last_mut().unwrap().1.push(field);
            }
        }
        for line in functions.lines().filter(|line| line.starts_with("    nccl")) {
            let (name, rest) = line.trim().split_once('(').unwrap();
            let (parameters, result) = rest.trim_end_matches(';').split_once(") -> ").unwrap();
            let types = parameters.split(", ").filter_map(|parameter| Some(parameter.split_once(": ")?.1.to_string()));
            all.functions.push((name.into(), types.collect(), result.into()));
        }
        all
    }

    /// Compiles only if the header says the same, and ends with 0 only if its initializer does.
    fn as_c(&self) -> String {
        let mut text = String::from("#include <nccl.h>\n#include <stddef.h>\n");
        for [name, _, value] in &self.constants {
            writeln!(text, "_Static_assert({name} == {}, \"{name}\");", c_value(value)).unwrap();
        }
        for [name, kind] in &self.aliases {
            writeln!(text, "_Static_assert(sizeof({name}) == sizeof({}), \"{name}\");", c_type(kind)).unwrap();
        }
        for (name, fields) in &self.structs {
            writeln!(text, "struct our_{name} {{").unwrap();
            for [field, kind] in fields {
                match kind.trim_matches(['[', ']']).split_once("; ") {
                    Some((kind, count)) => writeln!(text, "  {} {field}[{count}];", c_type(kind)).unwrap(),
                    None => writeln!(text, "  {} {field};", c_type(kind)).unwrap(),
                }
            }
            writeln!(text, "}};\n_Static_assert(sizeof(struct our_{name}) == sizeof({name}), \"{name}\");").unwrap();
            for [field, _] in fields {
                let (ours, theirs) = (format!("struct our_{name}"), name);
                let place = format!("offsetof({ours}, {field}) == offsetof({theirs}, {field})");
                // Comparing addresses compares types.
                writeln!(text, "_Static_assert({place}, \"{name}.{field}\");").unwrap();
                let line = format!("int same_{name}_{field}({ours} *a, {theirs} *b)");
                writeln!(text, "{line} {{ return (void *)(&a->{field} == &b->{field} ? a : NULL) == b; }}").unwrap();
            }
        }
        for (name, parameters, result) in &self.functions {
            let types: Vec<String> = parameters.iter().map(|kind| c_type(kind)).collect();
            let types = if types.is_empty() { "void".into() } else { types.join(", ") };
            writeln!(text, "{} (*const our_{name})({types}) = {name};", c_type(result)).unwrap();
        }
        text += "int main(void) {\n  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;\n  int differ = 0;\n";
        for [field, value] in &self.initial {
            writeln!(text, "  differ += theirs.{field} != {};", c_value(value)).unwrap();
        }
        text + "  return differ;\n}\n"
    }
}

fn c_type(kind: &str) -> String {
    match kind {
        "c_int" => "int".into(),
        "c_uint" => "unsigned int".into(),
        "c_char" => "char".into(),
        "c_void" => "void".into(),
        "usize" => "size_t".into(),
        _ => match (kind.strip_prefix("*const "), kind.strip_prefix("*mut ")) {
            (Some(to), _) => format!("const {} *", c_type(to)),
            (_, Some(to)) => format!("{} *", c_type(to)),
            _ => kind.into(),
        },
    }
}

fn c_value(value: &str) -> String {
    match value {
        "c_int::MIN" => "INT_MIN".into(),
        "std::ptr::null()" => "NULL".into(),
        _ => match value.strip_prefix("size_of::<").and_then(|rest| rest.strip_suffix(">()")) {
            Some(name) => format!("sizeof({name})"),
            None => value.replace('_', if value.starts_with("0x") { "" } else { "_" }),
        },
    }
}

/// Compiles a program with the wheel's header and stand-ins for CUDA's.
fn compile(name: &str, program: &str) -> (PathBuf, Output) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nccl-abi").join(name);
    fs::create_dir_all(&folder).unwrap();
    let stream = "#define CUDART_VERSION 13000\n#include <stddef.h>\ntypedef struct CUstream_st *cudaStream_t;\n";
    for (header, text) in [("cuda_runtime.h", stream), ("cuda_fp16.h", ""), ("cuda_bf16.h", "")] {
        fs::write(folder.join(header), text).unwrap();
    }
    let (source, binary) = (folder.join("abi.c"), folder.join("abi"));
    fs::write(&source, program).unwrap();
    // Nothing is linked but the addresses of the functions, which stay open in an object file.
    let arguments = ["-std=c11", "-O0", "-Wall", "-Werror", "-Wno-strict-prototypes", "-Wno-unused", "-I"];
    let output = Command::new("cc")
        .args(arguments)
        .arg(&folder)
        .arg("-isystem")
        .arg(wheel().join("include"))
        .arg(&source)
        .arg("-o")
        .arg(&binary)
        .arg(wheel().join("lib/libnccl.so.2"))
        .arg("-Wl,--allow-shlib-undefined")
        .output()
        .unwrap();
    (binary, output)
}

#[test]
fn declarations_equal_the_header() {
    let (abi, functions) = sources();
    let declared = Declared::of(&abi, &functions);
    assert!(declared.constants.len() >= 20 && declared.functions.len() >= 25 && declared.initial.len() == 17);
    assert_eq!(declared.structs.iter().map(|(_, fields)| fields.len()).collect::<Vec<_>>(), [1, 17]);
    let (binary, output) = compile("ours", &declared.as_c());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Command::new(binary).env("LD_LIBRARY_PATH", wheel().join("lib")).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "fields of NCCL_CONFIG_INITIALIZER that differ");
}

#[test]
fn a_declaration_that_differs_is_found() {
    let (abi, functions) = sources();
    for (name, from, to) in [
        ("value", "ncclRemoteError: ncclResult_t = 6", "ncclRemoteError: ncclResult_t = 8"),
        ("name", "ncclFloat16: ", "ncclFloat17: "),
        ("alias", "type ncclComm_t = *mut c_void", "type ncclComm_t = c_int"),
        (
            "order",
            "    pub(crate) minCTAs: c_int,\n    pub(crate) maxCTAs: c_int,\n    pub(crate) netName",
            "    pub(crate) maxCTAs: c_int,\n    pub(crate) minCTAs: c_int,\n    pub(crate) netName",
        ),
        ("field", "    pub(crate) nvlsCTAs: c_int,\n", ""),
        ("type", "pub(crate) version: c_uint", "pub(crate) version: c_int"),
        ("parameter", "ncclSend(from: *const c_void, count: usize", "ncclSend(from: *const c_void, count: c_int"),
        ("constness", "ncclRecv(to: *mut c_void", "ncclRecv(to: *const c_void"),
        ("swap", "peer: c_int, comm: ncclComm_t, stream", "comm: ncclComm_t, peer: c_int, stream"),
        ("function", "ncclAlltoAll(", "ncclAllToAll("),
    ] {
        let change = |text: &str| text.replace(from, to);
        let (changed_abi, changed_functions) = (change(&abi), change(&functions));
        assert!(changed_abi != abi || changed_functions != functions, "{name} changes nothing");
        let (_, output) = compile(name, &Declared::of(&changed_abi, &changed_functions).as_c());
        assert!(!output.status.success(), "{name} goes unnoticed");
    }
}

#[test]
fn every_code_of_the_header_has_its_name() {
    let (abi, functions) = sources();
    let declared = Declared::of(&abi, &functions);
    let codes: Vec<_> = declared.constants.iter().filter(|[_, kind, _]| kind == "ncclResult_t").collect();
    let header = fs::read_to_string(wheel().join("include/nccl.h")).unwrap();
    assert!(header.contains(&format!("ncclNumResults              =  {} }}", codes.len())), "{} codes", codes.len());
    for [name, _, value] in codes {
        assert_eq!(abi::result_name(value.parse().unwrap()), Some(name.as_str()));
    }
    assert_eq!(abi::result_name(99), None);
}

/// A19.
#[test]
fn the_real_library_without_a_driver_says_so_at_once() {
    let path = wheel().join("lib");
    // SAFETY: NCCL's own initialisers.
    let exports = unsafe { libloading::Library::new(path.join("libnccl.so.2")) }.unwrap();
    let (abi, functions) = sources();
    for (name, ..) in Declared::of(&abi, &functions).functions {
        // SAFETY: looked up, never called.
        assert!(unsafe { exports.get::<unsafe extern "C" fn()>(&name) }.is_ok(), "{name}");
    }
    let library = Library::load(Some(&path)).unwrap();
    assert_eq!(library.version(), 22809);
    let can = library.capabilities();
    assert!(can.all_to_all && can.register && can.windows && can.shrink && can.revoke, "{can:?}");

    let sockets = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
        links.filter(|path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
    };
    let before = sockets().count();
    let id = library.unique_id().unwrap();
    assert_ne!(id.as_bytes(), [0; 128]);
    assert!(sockets().count() > before, "NCCL listens for the other ranks");
    for socket in sockets() {
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(socket.file_name().unwrap())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let close_on_exec = i32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0;
        assert!(close_on_exec, "{}: a child would inherit it", socket.display());
    }

    if seqpar::cuda::load().is_ok() {
        return println!("skipped: this machine has a driver, so there is no NoDriver to see");
    }
    for world in [1, 2] {
        let begin = Instant::now();
        let error = Communicator::new(&library, &id, 0, world, &Config::default(), Duration::from_secs(5)).unwrap_err();
        let Error::Between(failure) = error else { panic!("{error}") };
        assert_eq!(failure.kind, FailureKind::NoDriver);
        assert!(begin.elapsed() < Duration::from_secs(2), "the deadline was waited for: {:?}", begin.elapsed());
    }
}
