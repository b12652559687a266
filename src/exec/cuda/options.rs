use std::time::Duration;

use crate::comm::local::Link;
use crate::plan::lower::Gates;

/// How a world runs. Nothing here changes a bit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CudaOptions {
    /// What gates become. Flags need communication that takes no SM: copies within a device do
    /// not promise that, so events are the default here.
    pub gates: Gates,
    /// Capture the world into one graph and launch that.
    pub graph: bool,
    /// Time every op by events.
    pub timed: bool,
    /// Fill temporaries with NaN before each run.
    pub poison: bool,
    /// SMs that a kernel may fill; `None`: all. With gates as flags, leave some to the others.
    pub sms: Option<u32>,
    /// By loopback: messages between ranks take that time, by the device's clock; `None`: as long as
    /// their copies. The model is that of the host executor: a message takes the sender's port and
    /// the receiver's, and arrives a latency later; but it takes them in the order in which messages
    /// become ready, not when it could start. What one op receives follows each other. Two launches
    /// of one thread a message: a kernel that fills every SM delays them.
    pub link: Option<Link>,
    /// By loopback: how messages between ranks travel.
    pub route: Route,
    /// Longest time of a run, and of a wait inside a kernel.
    pub deadline: Duration,
}

/// How a message between two ranks of one device travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// As one copy within the device.
    #[default]
    Device,
    /// Through pinned host memory, out by one copy engine and in by another: a real link.
    Pinned,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            gates: Gates::Events,
            graph: false,
            timed: false,
            poison: cfg!(debug_assertions),
            sms: None,
            link: None,
            route: Route::Device,
            deadline: Duration::from_secs(60),
        }
    }
}
