//! Whether copies within the device use its copy engine: a kernel fills every SM and waits for a
//! flag while a copy runs on another stream. A copy that needs SMs does not end before the kernel
//! gives up; one that does not ends at its usual rate. Loopback's gated kernels rely on the answer.

use std::time::{Duration, Instant};

use seqpar::Result;
use seqpar::cuda::{Context, DeviceMemory, Event, Geometry, Module, Priority, Stream, copy_device_to_device};
use seqpar::cuda::{launch, write_value};
use serde_json::json;

use crate::ground::{Done, Ground, median};

const PTX: &str = concat!(include_str!("spin.ptx"), "\0");
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn copies(ground: &Ground) -> Done {
    let context = Context::primary(0)?;
    // SAFETY: PTX text that ends with a zero byte.
    let spin = unsafe { Module::load(PTX.as_bytes()) }.and_then(|module| module.function("spin"));
    let spin = match spin {
        Ok(spin) => spin,
        Err(why) if ground.mock => {
            ground.skip("copy engine", &format!("the mock has no such kernel: {why}"));
            return Ok(());
        }
        Err(why) => return Err(why.into()),
    };
    let sms = context.attributes()?.sms;
    let [busy, copying, raising] = [Priority::Low, Priority::High, Priority::High].map(Stream::new);
    let (busy, copying, raising) = (busy?, copying?, raising?);
    let flag = DeviceMemory::new(16)?;
    for mib in [1usize, 16, 256] {
        let bytes = mib << 20;
        let (from, to) = (DeviceMemory::new(bytes)?, DeviceMemory::new(bytes)?);
        from.fill(1, &copying)?;
        let alone = median((0..10).map(|_| time(&to, &from, bytes, &copying)).collect::<Result<_>>()?);
        flag.fill(0, &busy)?;
        busy.synchronize()?;
        let geometry = Geometry { grid: [2 * sms, 1, 1], block: [1024, 1, 1], shared_bytes: 0, dependent: false };
        let params: Vec<u8> =
            [flag.address(), TIMEOUT.as_nanos() as u64].iter().flat_map(|word| word.to_ne_bytes()).collect();
        // SAFETY: the flag outlives the kernel, which ends by itself.
        unsafe { launch(&spin, &geometry, &params, &busy) }?;
        // By now it stands on every SM.
        std::thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        let beside = time(&to, &from, bytes, &copying)?;
        let still_waits = !busy.is_done()?;
        // SAFETY: a word of `flag`.
        unsafe { write_value(flag.address(), 1, &raising) }?;
        busy.synchronize()?;
        let uses_engine = still_waits && begin.elapsed() < TIMEOUT;
        let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
        let fields = json!({ "copy_engine": uses_engine, "gbps": rate(alone), "gbps_beside_kernel": rate(beside) });
        // Either answer is a result.
        ground.say(&format!("{mib} MiB beside a kernel on every SM"), true, fields);
    }
    Ok(())
}

/// Seconds of one copy.
fn time(to: &DeviceMemory, from: &DeviceMemory, bytes: usize, stream: &Stream) -> Result<f64> {
    let (begin, end) = (Event::new(true)?, Event::new(true)?);
    begin.record(stream)?;
    // SAFETY: both live until the stream was synchronised.
    unsafe { copy_device_to_device(to.address(), from.address(), bytes, stream) }?;
    end.record(stream)?;
    stream.synchronize()?;
    Ok(f64::from(end.milliseconds_since(&begin)?) / 1e3)
}
