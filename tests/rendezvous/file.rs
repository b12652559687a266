//! The store in a shared folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use seqpar::rendezvous::{FileStore, Store};

/// A name in a folder of the tests, where nothing is yet.
pub fn folder() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rendezvous-file");
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.join(format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn nobody_else_can_read_it() {
    let folder = folder();
    let store = FileStore::open(&folder, "g").unwrap();
    store.set("a/b", b"1").unwrap();
    store.claim("c", b"2").unwrap();
    assert_eq!((mode(&folder), mode(&folder.join("g"))), (0o700, 0o700));
    let files: Vec<_> = fs::read_dir(folder.join("g")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn a_folder_that_others_enter_is_refused() {
    let folder = folder();
    fs::create_dir(&folder).unwrap();
    for open in [0o755, 0o770, 0o701] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(open)).unwrap();
        let error = FileStore::open(&folder, "g").unwrap_err().to_string();
        assert!(error.contains(&format!("(mode {open:o}): chmod 700 it")), "{error}");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    FileStore::open(&folder, "g").unwrap();
}

#[test]
fn a_link_or_a_file_in_its_place_is_refused() {
    let (folder, elsewhere) = (folder(), folder());
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    let error = FileStore::open(&folder, "g").unwrap_err().to_string();
    assert!(error.contains("is not a folder"), "{error}");
    fs::remove_file(&folder).unwrap();
    fs::write(&folder, b"").unwrap();
    let error = FileStore::open(&folder, "g").unwrap_err().to_string();
    assert!(error.contains("is not a folder"), "{error}");
}

#[test]
fn generations_do_not_see_each_other() {
    let folder = folder();
    let (old, new) = (FileStore::open(&folder, "old").unwrap(), FileStore::open(&folder, "new").unwrap());
    old.set("a", b"1").unwrap();
    assert_eq!(new.read("a").unwrap(), None);
    old.remove().unwrap();
    assert!(!folder.join("old").exists());
    new.set("a", b"2").unwrap();
    for name in ["", ".", "..", ".x", "a/b", "a b", &"g".repeat(101)] {
        assert!(FileStore::open(&folder, name).unwrap_err().to_string().contains("generation"), "{name}");
    }
}

#[test]
fn what_is_no_value_is_an_error_and_not_a_value() {
    let folder = folder();
    let store = FileStore::open(&folder, "g").unwrap();
    fs::create_dir(folder.join("g/a")).unwrap();
    assert!(store.read("a").unwrap_err().to_string().contains("is not a value"));
    fs::write(folder.join("g/b"), vec![0; (1 << 20) + 1]).unwrap();
    assert!(store.read("b").unwrap_err().to_string().contains("is not a value"));
    fs::remove_dir_all(&folder).unwrap();
    assert!(store.read("c").is_err(), "a store that is gone is not an empty one");
}

#[test]
fn a_reader_sees_a_value_whole() {
    let folder = folder();
    let (writer, reader) = (FileStore::open(&folder, "g").unwrap(), FileStore::open(&folder, "g").unwrap());
    writer.set("v", &[0; 8000]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200u32 {
                writer.set("v", &vec![round as u8; 8000 + round as usize]).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let value = reader.read("v").unwrap().unwrap();
            assert!(
                value.iter().all(|&byte| byte == value[0]) && value.len() % 256 == (8000 + value[0] as usize) % 256
            );
        }
    });
}
