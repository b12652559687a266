use std::env::var_os;
use std::ffi::{CString, OsStr, c_int};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi::nccl::abi::*;

/// What to ask of a communicator. Unset fields are left to NCCL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name in errors, and in NCCL's own log.
    pub name: String,
    /// Fewest thread blocks of an op; goes with `max_ctas`.
    pub min_ctas: Option<u32>,
    /// Most thread blocks of an op: what communication takes from compute.
    pub max_ctas: Option<u32>,
    /// Thread blocks in a cluster.
    pub cga_cluster_size: Option<u32>,
    /// What NCCL is to spare.
    pub cta_policy: Option<CtaPolicy>,
    /// Communicators split from this one share its resources, and end with it: dropping one ends all.
    pub split_share: Option<bool>,
    /// Network plugin or built-in transport to use: "Socket", "IB".
    pub net_name: Option<String>,
    /// Class of service on the network.
    pub traffic_class: Option<u32>,
    /// Longest time from issuing an op until NCCL has put it on its stream.
    pub op_deadline: Duration,
    /// Longest time an abort may take; then it is left behind.
    pub reaper_deadline: Duration,
}

/// What NCCL is to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CtaPolicy {
    /// NCCL's choice.
    Default,
    /// Fewer thread blocks at nearly the same speed.
    Efficiency,
    /// No thread blocks where copy engines can do it: between windows inside one NVLink domain. Such
    /// a copy cannot be aborted.
    Zero,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "world".into(),
            min_ctas: None,
            max_ctas: None,
            cga_cluster_size: None,
            cta_policy: None,
            split_share: None,
            net_name: None,
            traffic_class: None,
            op_deadline: Duration::from_secs(60),
            reaper_deadline: Duration::from_secs(10),
        }
    }
}

/// The C form, and the strings that it points to: they live as long as the communicator.
pub(super) struct RawConfig {
    pub(super) config: ncclConfig_t,
    pub(super) strings: Strings,
}

#[derive(Default)]
pub(super) struct Strings {
    _name: CString,
    _net_name: Option<CString>,
}

impl Config {
    /// True if communicators split from this one share its resources: the environment overrules.
    pub(super) fn shares(&self) -> bool {
        match environment(var_os("NCCL_COMM_SPLIT_SHARE_RESOURCES").as_deref()) {
            Some(value) => value == 1,
            None => self.split_share == Some(true),
        }
    }

    /// Always non-blocking: everything is polled to a deadline.
    pub(super) fn raw(&self) -> Result<RawConfig> {
        if environment(var_os("NCCL_COMM_BLOCKING").as_deref()) == Some(1) {
            let why = "NCCL_COMM_BLOCKING=1 in the environment makes NCCL wait without a deadline: unset it";
            return Err(Error::Unsupported(why.into()));
        }
        // NCCL compares a set minimum with the unset maximum, and refuses.
        if let (Some(min), max) = (self.min_ctas, self.max_ctas)
            && max.is_none_or(|max| max < min)
        {
            return Err(Error::Unsupported(format!("min_ctas {min} needs a max_ctas that is not below it")));
        }
        let name = string("name", &self.name)?;
        let net_name = self.net_name.as_deref().map(|name| string("net_name", name)).transpose()?;
        let config = ncclConfig_t {
            blocking: 0,
            cgaClusterSize: integer("cga_cluster_size", self.cga_cluster_size)?,
            minCTAs: integer("min_ctas", self.min_ctas)?,
            maxCTAs: integer("max_ctas", self.max_ctas)?,
            netName: net_name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()),
            splitShare: self.split_share.map_or(NCCL_CONFIG_UNDEF_INT, c_int::from),
            trafficClass: integer("traffic_class", self.traffic_class)?,
            commName: name.as_ptr(),
            CTAPolicy: match self.cta_policy {
                None => NCCL_CONFIG_UNDEF_INT,
                Some(CtaPolicy::Default) => NCCL_CTA_POLICY_DEFAULT,
                Some(CtaPolicy::Efficiency) => NCCL_CTA_POLICY_EFFICIENCY,
                Some(CtaPolicy::Zero) => NCCL_CTA_POLICY_ZERO,
            },
            ..CONFIG_INITIALIZER
        };
        Ok(RawConfig { config, strings: Strings { _name: name, _net_name: net_name } })
    }
}

/// A number from the environment, if it is one of the two that NCCL takes for a switch.
fn environment(value: Option<&OsStr>) -> Option<u8> {
    value?.to_str()?.trim().parse().ok().filter(|&value| value < 2)
}

fn string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Unsupported(format!("{what} {text:?} of a communicator: drop the NUL")))
}

fn integer(what: &str, value: Option<u32>) -> Result<c_int> {
    let Some(value) = value else { return Ok(NCCL_CONFIG_UNDEF_INT) };
    c_int::try_from(value).map_err(|_| Error::Unsupported(format!("{what} {value}: at most {}", c_int::MAX)))
}
