//! Registered buffers, windows and NCCL's memory.

use seqpar::Error;

use crate::fake::*;

#[test]
fn a_null_window_or_registration_is_said_to_be_unsupported() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    fake.set("null_window", 1);
    fake.set("null_handle", 1);
    // SAFETY: addresses are numbers to the fake.
    let (window, buffer) = unsafe { (communicator.register_window(4096, 4096, true), communicator.register(4096, 64)) };
    for (what, error) in [("a window", window.unwrap_err()), ("register", buffer.unwrap_err())] {
        assert!(matches!(&error, Error::Unsupported(why) if why.contains(what)), "{error}");
    }
    communicator.async_error().unwrap();
    fake.assert_lawful();
}

#[test]
fn what_is_registered_goes_back_to_its_communicator_alone() {
    let fake = Fake::new();
    fake.set("polls", 2);
    let (mut one, mut other) = (fake.communicator(), fake.communicator());
    // SAFETY: addresses are numbers to the fake.
    let mut make = || unsafe { (one.register_window(8192, 4096, true).unwrap(), one.register(4096, 64).unwrap()) };
    let ((window, buffer), (foreign_window, foreign_buffer)) = (make(), make());
    one.deregister_window(window).unwrap();
    one.deregister(buffer).unwrap();
    assert!(matches!(other.deregister_window(foreign_window), Err(Error::Bind(_))));
    assert!(matches!(other.deregister(foreign_buffer), Err(Error::Bind(_))));
    other.async_error().unwrap();
    fake.assert_lawful();
}

#[test]
fn memory_is_freed_once() {
    let fake = Fake::new();
    let communicator = fake.communicator();
    let memory = communicator.allocate(1000).unwrap();
    assert_eq!((memory.bytes(), memory.address() != 0), (1000, true));
    drop(communicator);
    drop(memory);
    assert_eq!((fake.count("ncclMemAlloc"), fake.count("ncclMemFree")), (1, 1));
}
