//! Machine files: lines of `key = value  # source`, a subset of TOML.
//!
//! Read here and not by a library, because the core has no parser and needs its machines; the
//! subset is what constants need. A constant without a source is refused, as are unknown and
//! missing keys and values out of their range, each by one line that says where.
//! Test: `tests/sim_machines.rs`.

use std::collections::BTreeMap;

use super::machine::{Device, Gpu, Host, Link, Net, Protocol, SimMachine};
use crate::error::{Error, Result};
use crate::machine::Machine;

impl SimMachine {
    /// Reads the text of a machine file.
    ///
    /// # Errors
    /// [`Error::Data`] with the name, the line or key, and what to change.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut file = Constants::read(name, text)?;
        let kind = file.word("kind", &["host", "gpu"])?;
        let machine = if kind == "host" { host(name, &mut file)? } else { gpu(name, &mut file)? };
        match file.values.keys().next() {
            Some(key) => Err(file.error(key, &format!("is unknown on a machine of kind \"{kind}\": remove it"))),
            None => Ok(machine),
        }
    }
}

fn host(name: &str, file: &mut Constants) -> Result<SimMachine> {
    let machine = Machine {
        name: name.into(),
        f32_flops: file.number("f32_gflops")? * 1e9,
        half_flops: file.number("half_gflops")? * 1e9,
        memory_bytes_per_s: file.number("memory_gbps")? * 1e9,
        link_bytes_per_s: file.number("link_gbps")? * 1e9,
        link_latency_s: file.time("link_us")?,
        launch_s: file.time("launch_us")?,
    };
    let host = Host { machine, wake_s: file.time("wake_us")? };
    Ok(SimMachine { device: Device::Host(host), ..SimMachine::host(Machine { name: name.into(), ..Machine::cpu() }) })
}

fn gpu(name: &str, file: &mut Constants) -> Result<SimMachine> {
    let node_ranks = file.count("node_gpus")?;
    let nodes = file.count("nodes")?;
    let several = nodes > 1;
    let protocol = |file: &mut Constants, name: &str| -> Result<Protocol> {
        Ok(Protocol {
            rate: file.share(&format!("{name}_rate"))?,
            most_bytes_per_s: file.number(&format!("{name}_most_gbps"))? * 1e9,
            base_s: file.time(&format!("{name}_base_us"))?,
            hop_s: file.time(&format!("{name}_hop_us"))?,
            net_hop_s: if several { file.time(&format!("{name}_net_hop_us"))? } else { 0.0 },
        })
    };
    let protocols = [protocol(file, "ll")?, protocol(file, "ll128")?, protocol(file, "simple")?];
    let attention_flops =
        [64, 72, 96, 128, 256].map(|dim| Ok((dim, file.number(&format!("attention_d{dim}_tflops"))? * 1e12)));
    let peer_bytes_per_s =
        [1, 2, 4, 8, 16, 32].map(|n| Ok((f64::from(n), file.number(&format!("peer_{n}_channels_gbps"))? * 1e9)));
    let link = Link {
        port_bytes_per_s: file.number("port_gbps")? * 1e9,
        ring_bytes_per_s: file.number("ring_gbps")? * 1e9,
        protocols,
        kernel_s: file.time("collective_us")?,
        channels: file.number("ring_channels")?,
        peer_bytes_per_s: peer_bytes_per_s.into_iter().collect::<Result<_>>()?,
        peer_channels: file.number("peer_channels")?,
        peer_channel_bytes: file.number("peer_channel_mib")? * f64::from(1 << 20),
        peer_s: file.time("peer_us")?,
        all_to_all_bytes_per_s: file.number("all_to_all_gbps")? * 1e9,
        switch: match file.has("switch_gbps") {
            true => Some((file.number("switch_gbps")? * 1e9, file.time("switch_us")?)),
            false => None,
        },
        copy_engine: (file.number("copy_engine_gbps")? * 1e9, file.time("copy_engine_us")?),
        pair_bytes_per_s: if file.has("pair_gbps") { file.number("pair_gbps")? * 1e9 } else { f64::INFINITY },
        socket: match file.has("socket_gpus") {
            true => Some((file.count("socket_gpus")?, file.number("socket_gbps")? * 1e9)),
            false => None,
        },
    };
    let net = match several {
        true => Some(Net { nic_bytes_per_s: file.number("nic_gbps")? * 1e9, peer_s: file.time("net_us")? }),
        false => None,
    };
    let gpu = Gpu {
        node_ranks,
        sms: file.number("sms")?,
        memory_bytes: file.number("memory_gib")? * f64::from(1 << 30),
        gemm_flops: file.number("gemm_tflops")? * 1e12,
        f32_flops: file.number("f32_tflops")? * 1e12,
        gemm_fill_k: file.any("gemm_fill_k", 0.0..=1e6)?,
        attention_flops: attention_flops.into_iter().collect::<Result<_>>()?,
        attention_half_keys: file.any("attention_half_keys", 0.0..=1e6)?,
        memory_bytes_per_s: file.number("memory_gbps")? * 1e9,
        issue_s: file.time("issue_us")?,
        gap_s: file.time("gap_us")?,
        link,
        net,
    };
    if gpu.link.channels >= gpu.sms || gpu.link.peer_channels >= gpu.sms {
        return Err(file.error("sms", "is no more than the channels of a collective: check both"));
    }
    Ok(SimMachine { name: name.into(), ranks: node_ranks * nodes, device: Device::Gpu(Box::new(gpu)) })
}

/// What a file says and nobody has asked for yet.
struct Constants {
    file: String,
    values: BTreeMap<String, String>,
}

impl Constants {
    fn read(file: &str, text: &str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |why: String| Error::Data(format!("machine {file}, line {}: {why}", number + 1));
            let (pair, source) = line.split_once('#').unwrap_or((line, ""));
            let Some((key, value)) = pair.split_once('=') else {
                return Err(refuse(format!("\"{}\" is not key = value  # source", shortened(line))));
            };
            let (key, value) = (key.trim(), value.trim());
            if source.trim().is_empty() {
                return Err(refuse(format!("{} has no source: write where it comes from behind a #", shortened(key))));
            }
            if values.insert(key.to_string(), value.to_string()).is_some() {
                return Err(refuse(format!("{} is there twice: keep one", shortened(key))));
            }
        }
        Ok(Self { file: file.into(), values })
    }

    fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn error(&self, key: &str, why: &str) -> Error {
        Error::Data(format!("machine {}: {} {why}", self.file, shortened(key)))
    }

    fn text(&mut self, key: &str) -> Result<String> {
        self.values.remove(key).ok_or_else(|| self.error(key, "is missing: add it, with its source"))
    }

    fn word(&mut self, key: &str, known: &[&str]) -> Result<String> {
        let text = self.text(key)?;
        let word = text.trim_matches('"');
        if known.contains(&word) {
            return Ok(word.to_string());
        }
        Err(self.error(key, &format!("is {}: use {}", shortened(&text), known.join(" or "))))
    }

    fn any(&mut self, key: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
        let text = self.text(key)?;
        match text.replace('_', "").parse::<f64>() {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => {
                let why =
                    format!("is {}: use a number from {:e} to {:e}", shortened(&text), range.start(), range.end());
                Err(self.error(key, &why))
            }
        }
    }

    /// A rate or size.
    fn number(&mut self, key: &str) -> Result<f64> {
        self.any(key, 1e-6..=1e9)
    }

    /// Microseconds, which may be 0.
    fn time(&mut self, key: &str) -> Result<f64> {
        Ok(self.any(key, 0.0..=1e9)? / 1e6)
    }

    fn share(&mut self, key: &str) -> Result<f64> {
        self.any(key, 0.0..=1.0)
    }

    fn count(&mut self, key: &str) -> Result<usize> {
        match self.any(key, 1.0..=65_536.0)? {
            value if value.fract() == 0.0 => Ok(value as usize),
            value => Err(self.error(key, &format!("is {value}: use a whole number"))),
        }
    }
}

/// At most a line's worth of what someone else wrote.
fn shortened(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    if kept.is_empty() { "\"\"".into() } else { kept }
}
