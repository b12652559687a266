use super::State;
use crate::comm::signature::Signature;
use crate::json::Writer;

/// Name of the layout that [`Dump::json`] writes; docs/failure.md explains it.
pub const SCHEMA: &str = "seqpar-flight-1";

/// What a flight record held when its rank failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// The communicator.
    pub comm: String,
    /// The rank in it.
    pub rank: u32,
    /// Its number of ranks.
    pub world: u32,
    /// Why the dump was made.
    pub failure: Option<String>,
    /// When.
    pub now_ns: u64,
    /// Calls that were written before the oldest one kept.
    pub overwritten: u64,
    /// The calls, oldest first.
    pub calls: Vec<Call>,
}

/// One call of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it asked for.
    pub signature: Signature,
    /// Label of its op.
    pub label: String,
    /// How far the op came.
    pub state: State,
    /// When the rank called it.
    pub scheduled_ns: u64,
    /// When it began, if that was noticed.
    pub started_ns: Option<u64>,
    /// When it was seen to have ended.
    pub completed_ns: Option<u64>,
}

impl Dump {
    /// One JSON object, one line a call.
    pub fn json(&self) -> String {
        let mut out = Writer::new();
        out.begin_object().key("schema").string(SCHEMA).key("comm").string(&self.comm);
        out.key("rank").integer(self.rank).key("world").integer(self.world);
        if let Some(failure) = &self.failure {
            out.key("failure").string(failure);
        }
        out.key("now_ns").integer(self.now_ns).key("overwritten").integer(self.overwritten);
        out.key("calls").begin_array();
        for call in &self.calls {
            let Signature { seq, tag, kind, part, dtype, peer, elems, .. } = call.signature;
            out.newline().begin_object().key("seq").integer(seq).key("label").string(&call.label);
            out.key("kind").string(kind.name()).key("part").string(part.name()).key("dtype").string(dtype.name());
            out.key("elems").integer(elems);
            if let Some(peer) = peer {
                out.key("peer").integer(peer);
            }
            out.key("tag").integer(tag).key("state").string(call.state.name());
            out.key("scheduled_ns").integer(call.scheduled_ns);
            for (key, time) in [("started_ns", call.started_ns), ("completed_ns", call.completed_ns)] {
                if let Some(time) = time {
                    out.key(key).integer(time);
                }
            }
            out.end_object();
        }
        out.end_array().end_object();
        out.finish()
    }
}
