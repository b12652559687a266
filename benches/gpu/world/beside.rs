//! B4: a linear layer that fills every SM, beside copies: within the device, and through pinned memory,
//! whose copy engines are sure to need no SM. Both end, and the second are hidden at least in part.

use seqpar::Result;
use seqpar::cuda::{Context, DeviceMemory, Event, Priority, Staging, Stream, copy_device_to_device};
use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::launches;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use serde_json::json;

use crate::ground::{Done, Ground, median};
use crate::operands::Operands;

type Work<'a> = &'a dyn Fn(&Stream) -> Result<()>;

pub(crate) fn beside(ground: &Ground) -> Done {
    let context = Context::primary(0)?;
    let kernels = ground.kernels(&context)?;
    let [computing, copying] = [Priority::Low, Priority::High].map(Stream::new);
    let (computing, copying) = (computing?, copying?);
    let (rows, k, cols) = ground.pick((16384, 3072, 9216), (16, 64, 64));
    let kernel = Kernel::Gemm(Gemm::linear(Dtype::Bf16, 1, rows, k, cols, true, Epilogue::None));
    let operands = Operands::new(&kernel, &computing)?;
    let list = launches(&kernel, 0, &operands.views(0), &kernels.device())?;
    let params = list.iter().map(|launch| kernels.encode(launch)).collect::<Result<Vec<_>>>()?;
    let compute = |stream: &Stream| {
        for (launch, params) in list.iter().zip(&params).cycle().take(ground.pick(10, 1) * list.len()) {
            // SAFETY: the operands live until the streams were synchronised, one run at a time.
            unsafe { kernels.launch(launch, params, stream) }?;
        }
        Ok(())
    };
    let bytes = ground.pick(256 << 20, 1 << 10);
    let (from, to) = (DeviceMemory::new(bytes)?, DeviceMemory::new(bytes)?);
    from.fill(1, &copying)?;
    copying.synchronize()?;
    let within = |stream: &Stream| {
        let times = ground.pick(40, 1);
        // SAFETY: both live until the streams were synchronised.
        (0..times).try_for_each(|_| unsafe { copy_device_to_device(to.address(), from.address(), bytes, stream) })
    };
    let staging = Staging::new(ground.pick(4 << 20, 256))?;
    // SAFETY: as above.
    let pinned = |stream: &Stream| unsafe { staging.copy(to.address(), from.address(), bytes, stream) };
    for (name, copy) in [("within the device", &within as Work<'_>), ("through pinned memory", &pinned)] {
        let time = |compute: Option<Work<'_>>, copy: Option<Work<'_>>| -> Result<f64> {
            let times = (0..ground.pick(7, 1)).map(|_| both([(&computing, compute), (&copying, copy)]));
            Ok(median(times.collect::<Result<_>>()?))
        };
        let [computes, copies, together] =
            [time(Some(&compute), None)?, time(None, Some(copy))?, time(Some(&compute), Some(copy))?];
        let overlap = (computes + copies - together) / computes.min(copies);
        let ok = ground.mock || name == "within the device" || overlap > 0.0;
        let fields = json!({ "compute_ms": computes, "copy_ms": copies, "both_ms": together, "overlap": overlap });
        ground.say(&format!("copies {name} beside a kernel on every SM"), ok, fields);
    }
    Ok(())
}

/// Milliseconds from the start of the first work to the end of the last.
fn both(work: [(&Stream, Option<Work<'_>>); 2]) -> Result<f64> {
    let [begin, end] = [(); 2].map(|()| Event::new(true));
    let (begin, end, copied) = (begin?, end?, Event::new(false)?);
    let [(computing, _), (copying, _)] = work;
    begin.record(computing)?;
    copying.wait(&begin)?;
    for (stream, work) in work {
        work.map_or(Ok(()), |work| work(stream))?;
    }
    copied.record(copying)?;
    computing.wait(&copied)?;
    end.record(computing)?;
    computing.synchronize()?;
    Ok(f64::from(end.milliseconds_since(&begin)?))
}
