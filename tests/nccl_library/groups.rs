//! What is listed is what is issued.

use std::time::Duration;

use seqpar::Error;
use seqpar::comm::nccl::{Communicator, Part, PartKind};
use seqpar::cuda::Stream;
use seqpar::dtype::Dtype;
use seqpar::error::FailureKind;

use crate::fake::*;
use crate::stalls::unless_stalled;

pub fn stream(handle: u64) -> Stream {
    // SAFETY: a number to the fake, and no call of the driver is made with it.
    unsafe { Stream::borrowed(handle) }
}

pub fn send_something(communicator: &mut Communicator, stream: &Stream) -> seqpar::Result<()> {
    // SAFETY: addresses are numbers to the fake.
    communicator.group("something", |group| unsafe { group.send(16, 4, Dtype::F32, 2, stream) })
}

#[test]
fn every_op_arrives_with_its_arguments_in_order() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    let begin = fake.written().len();
    let s = stream(0xa0);
    // SAFETY: addresses are numbers to the fake.
    let listed = communicator.group("all", |group| unsafe {
        group.send(0x10, 1, Dtype::F32, 2, &s)?;
        group.recv(0x20, 2, Dtype::Bf16, 3, &s)?;
        group.all_gather(0x30, 0x40, 3, Dtype::F16, &s)?;
        group.reduce_scatter(0x50, 0x60, 4, Dtype::I32, &s)?;
        group.all_reduce(0x70, 0x80, 5, Dtype::U8, &s)?;
        group.broadcast(0x90, 0xa0, 6, Dtype::F32, 3, &s)?;
        group.all_to_all(0xb0, 0xc0, 7, Dtype::F32, &s)?;
        // Nothing to NCCL.
        group.send(0xd0, 0, Dtype::F32, 0, &s)?;
        Ok(7)
    });
    assert_eq!(listed, Ok(7));
    assert_eq!(
        &fake.written()[begin..],
        "ncclSend 10 0 1 7 2 a0\n\
         ncclRecv 0 20 2 9 3 a0\n\
         ncclAllGather 30 40 3 6 -1 a0\n\
         ncclReduceScatter 50 60 4 2 0 a0\n\
         ncclAllReduce 70 80 5 1 0 a0\n\
         ncclBroadcast 90 a0 6 7 3 a0\n\
         ncclAlltoAll b0 c0 7 7 -1 a0\n"
    );
    assert_eq!((fake.count("ncclGroupStart"), fake.count("ncclGroupEnd")), (1, 1));
    let op = communicator.status().last(|op| op.cloned()).unwrap();
    assert_eq!((op.seq, op.label.as_str(), op.parts.len()), (0, "all", 8));
    assert!(op.enqueued.is_some());
    assert_eq!(op.parts[1], Part { kind: PartKind::Recv, elems: 2, dtype: Dtype::Bf16, peer: Some(3) });
    fake.assert_lawful();
}

#[test]
fn ops_are_counted_from_zero_and_refusals_are_not() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    let s = stream(1);
    assert_eq!(communicator.status().last(|op| op.cloned()), None);
    for seq in 0..3 {
        send_something(&mut communicator, &s).unwrap();
        assert_eq!(communicator.status().last(|op| op.unwrap().seq), seq);
        // SAFETY: addresses are numbers to the fake.
        let peer = communicator.group("far", |group| unsafe { group.send(16, 4, Dtype::F32, 4, &s) });
        assert!(matches!(&peer, Err(Error::Mesh(why)) if why.contains("rank 4")), "{peer:?}");
        let own = communicator.group("own", |_| Err::<(), _>(Error::Bind("mine".into())));
        assert_eq!(own, Err(Error::Bind("mine".into())));
    }
    assert_eq!(fake.count("ncclGroupStart"), 3);
    let other = stream(2);
    // SAFETY: addresses are numbers to the fake.
    let two = communicator.group("two", |group| unsafe {
        group.send(16, 4, Dtype::F32, 0, &s)?;
        group.recv(16, 4, Dtype::F32, 0, &other)
    });
    assert!(matches!(&two, Err(Error::Unsupported(why)) if why.contains("two streams")), "{two:?}");
    assert_eq!(fake.count("ncclSend"), 3);
    fake.assert_lawful();
}

#[test]
fn a_group_ends_when_an_op_in_it_fails() {
    unless_stalled(|| {
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        fake.fail("ncclRecv", 4);
        let s = stream(1);
        // SAFETY: addresses are numbers to the fake.
        let failed = failure(communicator.group("pair", |group| unsafe {
            group.send(16, 4, Dtype::F32, 0, &s)?;
            group.recv(16, 4, Dtype::F32, 0, &s)?;
            group.send(16, 4, Dtype::F32, 2, &s)
        }));
        assert!(matches!(failed.kind, FailureKind::Library { call: "ncclRecv", code: 4, .. }), "{failed}");
        assert_eq!((fake.count("ncclSend"), fake.count("ncclGroupEnd")), (1, 1));
        assert!(failed.to_string().contains("words of the fake"), "{failed}");
        assert!(failed.elapsed_ms < 100, "{}", Duration::from_millis(failed.elapsed_ms).as_millis());
    });
}
