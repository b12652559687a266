//! A store whose values carry the job's key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::{Key, MemoryStore, Nonce, SignedStore, Store, VALUE_BYTES_MAX};

use crate::ranks::OTHER_KEY;
use crate::tcp::{key, soon};

const JOB: Nonce = Nonce([1; 16]);

fn rejected<T: std::fmt::Debug>(result: seqpar::Result<T>) {
    match result {
        Err(Error::Between(failure)) if failure.kind == FailureKind::AuthRejected => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_job_says_arrives() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let [one, other] = [(); 2].map(|()| SignedStore::new(store.clone(), &key(), JOB));
    assert_eq!(one.read("a").unwrap(), None);
    one.set("a", b"1").unwrap();
    assert_eq!(other.read("a").unwrap().unwrap(), b"1");
    assert_eq!(other.wait("a", soon()).unwrap(), b"1");
    assert_eq!(other.claim("a", b"2").unwrap(), b"1");
    assert_eq!(one.claim("b", b"").unwrap(), b"");
    let large = vec![7; VALUE_BYTES_MAX - 32];
    one.set("a", &large).unwrap();
    assert!(other.read("a").unwrap().unwrap() == large);
    let error = one.set("a", &vec![7; VALUE_BYTES_MAX - 31]).unwrap_err().to_string();
    assert!(error.contains("at most 1048544 signed"), "{error}");
    let error = one.wait("never", Instant::now() + Duration::from_millis(20)).unwrap_err().to_string();
    assert!(error.contains("deadline passed"), "{error}");
}

#[test]
fn what_others_say_is_rejected() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let signed = SignedStore::new(store.clone(), &key(), JOB);
    signed.set("a", b"abc").unwrap();
    let sealed = store.read("a").unwrap().unwrap();
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    let wrong_key = SignedStore::new(store.clone(), &Key::from_bytes(OTHER_KEY.as_bytes()).unwrap(), JOB);
    let wrong_job = SignedStore::new(store.clone(), &key(), Nonce([2; 16]));
    let of = |other: &SignedStore| {
        other.set("other", b"abc").unwrap();
        store.read("other").unwrap().unwrap()
    };
    let without_key = b"abc".to_vec();
    for (what, value, at) in [
        ("changed", changed, "a"),
        ("cut", sealed[..34].to_vec(), "a"),
        ("moved", sealed.clone(), "b"),
        ("unsigned", without_key, "a"),
        ("of another key", of(&wrong_key), "other"),
        ("of another job", of(&wrong_job), "other"),
    ] {
        println!("{what}");
        store.set(at, &value).unwrap();
        rejected(signed.read(at));
        rejected(signed.wait(at, soon()));
        rejected(signed.claim(at, b"mine"));
    }
    store.set("a", &sealed).unwrap();
    assert_eq!(signed.read("a").unwrap().unwrap(), b"abc");
}
