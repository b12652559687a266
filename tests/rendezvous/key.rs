//! Where a key may come from.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use seqpar::rendezvous::{Key, Nonce};

const SECRET: &[u8] = b"sixteen bytes ok";

#[test]
fn a_file_that_others_read_is_refused() {
    let file = crate::file::folder();
    fs::write(&file, SECRET).unwrap();
    for open in [0o644, 0o640, 0o602, 0o777] {
        fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
        let error = Key::from_file(&file).unwrap_err().to_string();
        assert!(error.contains(&format!("others may read it (mode {open:o}): chmod 600 it")), "{error}");
    }
    for private in [0o600, 0o400] {
        fs::set_permissions(&file, fs::Permissions::from_mode(private)).unwrap();
        let key = Key::from_file(&file).unwrap();
        assert_eq!(key.nonce("job"), Key::from_bytes(SECRET).unwrap().nonce("job"));
    }
}

#[test]
fn too_short_too_long_and_missing_keys_are_refused() {
    let file = crate::file::folder();
    assert!(Key::from_file(&file).unwrap_err().to_string().contains("key file"));
    for (bytes, word) in [(0, "at least 16"), (15, "at least 16"), (4097, "longer than 4096")] {
        fs::write(&file, vec![b'k'; bytes]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let error = Key::from_file(&file).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    fs::write(&file, vec![b'k'; 4096]).unwrap();
    Key::from_file(&file).unwrap();
    assert!(Key::from_file(file.parent().unwrap()).unwrap_err().to_string().contains("neither a file nor a pipe"));
}

#[test]
fn an_inherited_pipe_gives_the_key_also_in_parts() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let number = reader.as_raw_fd() as u32;
    let slow = std::thread::spawn(move || {
        for part in SECRET.chunks(5) {
            writer.write_all(part).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let key = Key::from_descriptor(number).unwrap();
    slow.join().unwrap();
    assert_eq!(key.nonce("job"), Key::from_bytes(SECRET).unwrap().nonce("job"));
    assert!(Key::from_descriptor(9999).is_err());
}

#[test]
fn nothing_prints_a_key() {
    let key = Key::from_bytes(SECRET).unwrap();
    assert_eq!(format!("{key:?}"), "Key(..)");
    let error = Key::from_bytes(&SECRET[..9]).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("sixteen"));
}

#[test]
fn nonces_differ_by_key_and_by_job() {
    let (one, other) = (Key::from_bytes(SECRET).unwrap(), Key::from_bytes(b"another sixteen.").unwrap());
    assert_eq!(one.nonce("a"), one.clone().nonce("a"));
    assert_ne!(one.nonce("a"), one.nonce("b"));
    assert_ne!(one.nonce("a"), other.nonce("a"));
    assert_ne!(Nonce::random().unwrap(), Nonce::random().unwrap());
    assert_eq!(Nonce([0x0f; 16]).to_string(), "0f".repeat(16));
}
