//! What ranks may say of themselves, and what they know of each other once they have met.

use seqpar::Error;
use seqpar::rendezvous::{Hello, Key, Members, MemoryStore, Nonce, PLANS_MAX, WORLD_MAX, exchange_id, join};

use crate::tcp::{key, soon};

const JOB: Nonce = Nonce([4; 16]);

fn hello(rank: usize, world: usize) -> Hello {
    Hello::new(rank, world, JOB).unwrap()
}

/// The ranks of these hellos, met.
fn met(key: &Key, store: &MemoryStore, hellos: Vec<Hello>) -> Vec<Members> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            hellos.into_iter().map(|hello| scope.spawn(move || join(store, key, &hello, soon()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn what_cannot_be_is_not_said() {
    for (rank, world) in [(0, 0), (2, 2), (0, WORLD_MAX + 1)] {
        assert!(matches!(Hello::new(rank, world, JOB), Err(Error::Mesh(_))), "{rank} of {world}");
    }
    let refused = |change: fn(&mut Hello)| {
        let mut hello = hello(0, 1);
        change(&mut hello);
        join(&MemoryStore::default(), &key(), &hello, soon()).unwrap_err().to_string()
    };
    assert!(refused(|hello| hello.rank = 1).contains("rank 1 of 1"));
    let error = refused(|hello| hello.plans = vec![0; PLANS_MAX + 1]);
    assert!(error.contains("17 plans in a hello: at most 16"), "{error}");
}

#[test]
fn long_names_are_cut_and_still_agree() {
    let (key, store) = (key(), MemoryStore::default());
    let mut hellos = vec![hello(0, 2), hello(1, 2)];
    // A letter of two bytes stands where the name is cut.
    hellos.iter_mut().for_each(|hello| hello.host.name = "h".repeat(63) + "\u{e4}");
    for members in met(&key, &store, hellos) {
        assert!(members.hellos().iter().all(|hello| hello.host.name == "h".repeat(63)));
    }
}

#[test]
fn neighbours_are_those_on_ones_own_machine() {
    let (key, store) = (key(), MemoryStore::default());
    let mut hellos: Vec<_> = (0..4).map(|rank| hello(rank, 4)).collect();
    for (hello, boot) in hellos.iter_mut().zip([7, 8, 7, 8]) {
        (hello.host.boot, hello.device) = ([boot; 16], Some([boot; 16]));
        hello.shares_device = true;
    }
    let neighbours: Vec<_> = met(&key, &store, hellos).iter().map(Members::neighbours).collect();
    assert_eq!(neighbours, [[0, 2], [1, 3], [0, 2], [1, 3]]);
}

/// One device of each of two machines may have the same identity.
#[test]
fn a_device_is_shared_on_one_machine_only() {
    let (key, store) = (key(), MemoryStore::default());
    let mut hellos: Vec<_> = (0..2).map(|rank| hello(rank, 2)).collect();
    for (hello, boot) in hellos.iter_mut().zip([7, 8]) {
        (hello.host.boot, hello.device) = ([boot; 16], Some([1; 16]));
    }
    assert_eq!(met(&key, &store, hellos).len(), 2);
}

#[test]
fn a_name_of_a_communicator_is_used_once() {
    let (key, store) = (key(), MemoryStore::default());
    let members = &met(&key, &store, vec![hello(0, 1)])[0];
    let exchange = |name: &str, id: u8| exchange_id(&store, &key, members, name, || Ok([id; 128]), soon());
    assert_eq!(exchange("world", 1).unwrap(), [1; 128]);
    let error = exchange("world", 2).unwrap_err().to_string();
    assert!(error.contains("exchanged before"), "{error}");
    assert_eq!(exchange("pair", 2).unwrap(), [2; 128]);
    for name in ["", "a b", &"n".repeat(33)] {
        assert!(exchange(name, 3).unwrap_err().to_string().contains("1 to 32"), "{name}");
    }
}
