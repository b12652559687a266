//! What a library lacks or says of itself.

use seqpar::Error;
use seqpar::comm::nccl::{Communicator, Config, CtaPolicy, Library, UniqueId};
use seqpar::error::FailureKind;

use crate::fake::*;

#[test]
fn versions_that_are_too_old_or_too_new_are_refused() {
    for (version, text) in [(21701, "2.17.1"), (2804, "2.8.4"), (30000, "3.0.0")] {
        let error = Library::load(Some(&compile(version, &[]))).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(why) if why.contains(text)), "{error}");
    }
    assert_eq!(Library::load(Some(&compile(21801, &[]))).unwrap().version(), 21801);
}

#[test]
fn what_is_not_nccl_is_refused() {
    let error = Library::load(Some(&compile(22809, &["ncclGetVersion"]))).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(why) if why.contains("not NCCL")), "{error}");
}

#[test]
fn a_folder_names_the_library_in_it() {
    let folder = compile(22809, &[]).with_extension("folder");
    std::fs::create_dir_all(&folder).unwrap();
    let error = Library::load(Some(&folder)).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(why) if why.contains("libnccl.so.2")), "{error}");
    std::fs::copy(compile(22809, &[]), folder.join("libnccl.so.2")).unwrap();
    assert_eq!(Library::load(Some(&folder)).unwrap().path(), folder.join("libnccl.so.2"));
}

/// Runs a test of this file once more, in a process with another environment.
fn again(test: &str, environment: &[(&str, &std::path::Path)]) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([&format!("library::{test}"), "--exact", "--nocapture"])
        .env("SEQPAR_TEST_AGAIN", "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn is_again() -> bool {
    std::env::var_os("SEQPAR_TEST_AGAIN").is_some()
}

#[test]
fn the_environment_names_the_library_unless_the_caller_does() {
    if is_again() {
        let named = std::env::var_os("SEQPAR_NCCL_PATH").unwrap();
        assert_eq!(Library::load(None).unwrap().path(), named);
        let own = compile(22809, &[]);
        assert_eq!(Library::load(Some(&own)).unwrap().path(), own);
        return;
    }
    again("the_environment_names_the_library_unless_the_caller_does", &[("SEQPAR_NCCL_PATH", &compile(22809, &[]))]);
}

#[test]
fn a_name_in_the_environment_that_is_wrong_is_an_error() {
    if is_again() {
        let error = Library::load(None).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libnccl.so.2") && error.contains("SEQPAR_NCCL_PATH"), "{error}");
        return;
    }
    let folder = named("libnccl.so.2");
    let search = [("LD_LIBRARY_PATH", folder.as_path()), ("SEQPAR_NCCL_PATH", "/nowhere/libnccl.so.2".as_ref())];
    again("a_name_in_the_environment_that_is_wrong_is_an_error", &search);
}

#[test]
fn both_names_are_found_by_the_linker() {
    if is_again() {
        // Of any version, where the machine has one installed.
        Library::load(None).unwrap();
        return;
    }
    for name in ["libnccl.so.2", "libnccl.so"] {
        again("both_names_are_found_by_the_linker", &[("LD_LIBRARY_PATH", &named(name))]);
    }
}

/// A folder with a library of that name.
fn named(name: &str) -> std::path::PathBuf {
    let library = compile(22809, &[]);
    let folder = library.with_extension("folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::rename(library, folder.join(name)).unwrap();
    folder
}

#[test]
fn an_environment_that_makes_nccl_block_is_refused() {
    if is_again() {
        let fake = Fake::new();
        let error = fake.try_communicator(SECOND).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(why) if why.contains("NCCL_COMM_BLOCKING")), "{error}");
        return;
    }
    again("an_environment_that_makes_nccl_block_is_refused", &[("NCCL_COMM_BLOCKING", "1".as_ref())]);
}

#[test]
fn without_a_function_that_all_need_there_is_no_communicator() {
    let fake = Fake::without(&["ncclCommAbort"]);
    let FailureKind::LibraryMissing { symbol } = kind(fake.try_communicator(SECOND)) else { panic!() };
    assert!(symbol.starts_with("ncclCommAbort (NCCL 2.28.9, "), "{symbol}");
    assert_eq!(fake.count("ncclCommInitRankConfig"), 0);
}

#[test]
fn a_function_that_is_missing_poisons_nothing() {
    let fake = Fake::without(&["ncclAlltoAll", "ncclCommSplit", "ncclCommRevoke"]);
    assert!(!fake.library.capabilities().all_to_all);
    assert!(fake.library.capabilities().windows);
    let mut communicator = fake.communicator();
    let stream = crate::groups::stream(1);
    let missing = |kind, name: &str| matches!(kind, FailureKind::LibraryMissing { symbol } if symbol.starts_with(name));
    // SAFETY: addresses are numbers to the fake.
    let listed =
        communicator.group("swap", |group| unsafe { group.all_to_all(16, 32, 4, seqpar::dtype::Dtype::F32, &stream) });
    let listed = failure(listed);
    assert_eq!((listed.op.as_str(), listed.seq, listed.rank), ("swap", Some(0), 1));
    assert!(missing(listed.kind, "ncclAlltoAll"));
    assert!(missing(kind(communicator.split(Some(0), 0, &config(), SECOND)), "ncclCommSplit"));
    assert!(missing(kind(communicator.revoke("a test", SECOND)), "ncclCommRevoke"));
    communicator.async_error().unwrap();
    communicator.finalize(SECOND).unwrap();
    fake.assert_lawful();
}

#[test]
fn a_configuration_arrives_as_it_is() {
    let fake = Fake::new();
    let config = Config {
        min_ctas: Some(2),
        max_ctas: Some(4),
        cga_cluster_size: Some(3),
        traffic_class: Some(5),
        cta_policy: Some(CtaPolicy::Zero),
        split_share: Some(false),
        net_name: Some("Socket".into()),
        ..config()
    };
    let id = fake.library.unique_id().unwrap();
    drop(Communicator::new(&fake.library, &id, 1, 4, &config, SECOND).unwrap());
    drop(Communicator::new(&fake.library, &id, 0, 1, &crate::fake::config(), SECOND).unwrap());
    let unset = i32::MIN;
    assert_eq!(
        fake.written(),
        format!(
            "init 1 of 4: 80 cafebeef 22809 blocking 0 cga 3 ctas 2 4 policy 2 share 0 class 5 net Socket name test\n\
             init 0 of 1: 80 cafebeef 22809 blocking 0 cga {unset} ctas {unset} {unset} policy {unset} share {unset} class {unset} net - name test\n"
        )
    );
}

#[test]
fn configurations_and_ranks_that_contradict_themselves_are_refused() {
    let fake = Fake::new();
    let id = fake.library.unique_id().unwrap();
    let new = |config: Config, rank| Communicator::new(&fake.library, &id, rank, 4, &config, SECOND).unwrap_err();
    // NCCL itself refuses a minimum alone, without saying why.
    assert!(matches!(new(Config { min_ctas: Some(2), ..config() }, 0), Error::Unsupported(_)));
    assert!(matches!(new(Config { min_ctas: Some(2), max_ctas: Some(1), ..config() }, 0), Error::Unsupported(_)));
    assert!(matches!(new(Config { max_ctas: Some(u32::MAX), ..config() }, 0), Error::Unsupported(_)));
    assert!(matches!(new(Config { name: "a\0b".into(), ..config() }, 0), Error::Unsupported(_)));
    assert!(matches!(new(config(), 4), Error::Mesh(_)));
    assert_eq!(fake.count("ncclCommInitRankConfig"), 0);
}

#[test]
fn an_identity_is_never_printed() {
    let id = UniqueId::from_bytes(std::array::from_fn(|i| i as u8));
    assert_eq!(id.as_bytes()[127], 127);
    assert_eq!(format!("{id:?}"), "UniqueId(secret)");
}
