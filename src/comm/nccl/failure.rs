//! NCCL's result codes as kinds of failure.
#![allow(non_upper_case_globals)]

use super::library::Library;
use crate::error::FailureKind;
use crate::ffi::nccl::abi::*;

/// What happened and whose fault it is; where it happened is added by the call that reports it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: FailureKind,
    pub(super) culprits: Vec<usize>,
}

impl From<FailureKind> for Fault {
    fn from(kind: FailureKind) -> Self {
        Self { kind, culprits: Vec::new() }
    }
}

/// The result of a call; an op in progress is no failure.
pub(super) fn checked(library: &Library, call: &'static str, code: ncclResult_t) -> Result<(), Fault> {
    match code {
        ncclSuccess | ncclInProgress => Ok(()),
        code => Err(fault(call, code, &library.last_words())),
    }
}

/// Codes change on their way up through NCCL, so system, internal and remote errors are one: the
/// peer or the network. What a code alone does not tell is read from NCCL's words.
fn fault(call: &'static str, code: ncclResult_t, words: &str) -> Fault {
    let name = result_name(code).unwrap_or("a code unknown to seqpar");
    let why = if words.is_empty() { name.to_string() } else { format!("{name}: {words}") };
    let kind = match code {
        // Only asked once NCCL has failed: a library for tests needs no driver.
        ncclUnhandledCudaError if crate::cuda::load().is_err() => FailureKind::NoDriver,
        ncclSystemError | ncclInternalError | ncclRemoteError => {
            FailureKind::PeerLost { how: format!("peer or network, {call} gave {code}, {why}") }
        }
        ncclInvalidUsage if words.contains("Duplicate GPU") => FailureKind::DeviceConflict,
        ncclInvalidUsage if words.contains("Mismatched NCCL version") => {
            let versions = numbers_after(words, "version ");
            let text = |i: usize| versions.get(i).map_or("?".into(), |v| format!("NCCL version {v}"));
            FailureKind::VersionSkew { mine: text(1), theirs: text(0) }
        }
        _ => FailureKind::Library { call, code, why },
    };
    // Both of these warnings name two ranks, this one among them.
    let culprits = match kind {
        FailureKind::DeviceConflict | FailureKind::VersionSkew { .. } => numbers_after(words, "rank "),
        _ => Vec::new(),
    };
    Fault { kind, culprits }
}

fn numbers_after(text: &str, word: &str) -> Vec<usize> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    text.match_indices(word).filter_map(|(at, _)| digits(&text[at + word.len()..])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_three_and_six_are_the_peer_or_the_network() {
        for code in [ncclSystemError, ncclInternalError, ncclRemoteError] {
            assert!(matches!(fault("ncclSend", code, "x").kind, FailureKind::PeerLost { .. }), "{code}");
        }
    }

    #[test]
    fn unknown_codes_stay_numbers() {
        for code in [8, 9, 99, -1, i32::MIN] {
            let FailureKind::Library { call: "ncclSend", code: kept, .. } = fault("ncclSend", code, "").kind else {
                panic!("{code}")
            };
            assert_eq!(kept, code);
        }
    }

    #[test]
    fn words_tell_what_invalid_usage_means() {
        let shared = fault("init", 5, "Duplicate GPU detected : rank 1 and rank 3 both on CUDA device 4b000");
        assert_eq!((shared.kind, shared.culprits), (FailureKind::DeviceConflict, vec![1, 3]));
        let skew = fault("init", 5, "Mismatched NCCL version detected : rank 2 version 22809 rank 0 version 23004");
        let kind = FailureKind::VersionSkew { mine: "NCCL version 23004".into(), theirs: "NCCL version 22809".into() };
        assert_eq!((skew.kind, skew.culprits), (kind, vec![2, 0]));
        assert!(matches!(fault("init", 5, "other").kind, FailureKind::Library { code: 5, .. }));
    }
}
