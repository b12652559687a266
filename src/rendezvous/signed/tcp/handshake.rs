//! How two ends prove to each other that they have the job's key.
//!
//! | from | bytes |
//! |---|---|
//! | host | `SEQPARS1`, nonce [32] |
//! | client | `SEQPARC1`, nonce [32], MAC [32] of both nonces |
//! | host | [`Answer`] u8, MAC [32] of both nonces |
//!
//! Nonces are random, so no message serves twice. The client speaks first of the key: who only
//! knocks learns nothing.

use crate::error::Result;
use crate::rendezvous::signed::key::{Key, MAC_BYTES, random};

pub(super) const GREETING_BYTES: usize = 40;
pub(super) const PROOF_BYTES: usize = 72;
pub(super) const ANSWER_BYTES: usize = 1 + MAC_BYTES;

const HOST: &[u8; 8] = b"SEQPARS1";
const CLIENT: &[u8; 8] = b"SEQPARC1";

/// What the host says to a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Welcome,
    WrongKey,
    Full,
}

/// The host's first message, and the nonce in it.
pub(super) fn greeting() -> Result<([u8; GREETING_BYTES], [u8; 32])> {
    let nonce = random()?;
    Ok((joined(&[HOST, &nonce]), nonce))
}

/// The client's reply to a greeting and its nonces; nothing if that is not a greeting.
pub(super) fn prove(key: &Key, greeting: &[u8; GREETING_BYTES]) -> Result<Option<([u8; PROOF_BYTES], Nonces)>> {
    let Some(host) = greeting.strip_prefix(HOST).and_then(|nonce| nonce.try_into().ok()) else { return Ok(None) };
    let nonces = Nonces { host, client: random()? };
    let mac = key.sign(&[b"client", &nonces.host, &nonces.client]);
    Ok(Some((joined(&[CLIENT, &nonces.client, &mac]), nonces)))
}

/// The nonces if the proof is one.
pub(super) fn proven(key: &Key, host: [u8; 32], proof: &[u8; PROOF_BYTES]) -> Option<Nonces> {
    let (client, mac) = proof.strip_prefix(CLIENT)?.split_first_chunk::<32>()?;
    let nonces = Nonces { host, client: *client };
    key.verifies(&[b"client", &nonces.host, &nonces.client], mac).then_some(nonces)
}

/// The host's last message. Without nonces it is not signed: it then only says why not.
pub(super) fn answer(key: &Key, nonces: Option<&Nonces>, answer: Answer) -> [u8; ANSWER_BYTES] {
    let mac =
        nonces.map_or([0; MAC_BYTES], |nonces| key.sign(&[b"host", &nonces.host, &nonces.client, &[code(answer)]]));
    joined(&[&[code(answer)], &mac])
}

/// What a host that has the key answered.
pub(super) fn answered(key: &Key, nonces: &Nonces, bytes: &[u8; ANSWER_BYTES]) -> Answer {
    let (said, mac) = (bytes[0], &bytes[1..]);
    let signed = key.verifies(&[b"host", &nonces.host, &nonces.client, &[said]], mac);
    match said {
        0 if signed => Answer::Welcome,
        2 if signed => Answer::Full,
        // A host without the key is as wrong as a client without it.
        _ => Answer::WrongKey,
    }
}

fn code(answer: Answer) -> u8 {
    match answer {
        Answer::Welcome => 0,
        Answer::WrongKey => 1,
        Answer::Full => 2,
    }
}

pub(super) struct Nonces {
    host: [u8; 32],
    client: [u8; 32],
}

impl Nonces {
    /// The key of this connection.
    pub(super) fn session(&self, key: &Key) -> Result<Key> {
        key.derive(&[b"session", &self.host, &self.client])
    }
}

/// The parts in a row, which fill the array.
fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(parts.iter().copied().flatten()).for_each(|(to, from)| *to = *from);
    out
}
