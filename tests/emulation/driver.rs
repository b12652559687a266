//! The same tests on a real GPU: with `SEQPAR_TEST_DEVICE=cuda`, and the features `kernels` and
//! `cuda`, operands lie in device memory and launches go through the driver. What only the
//! emulation sees (races, reads of unwritten memory) is not looked for there.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use seqpar::cuda::{Context, DeviceMemory, Priority, Stream, write_value};
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::cuda::{Launch, fatbins};

use super::device::{Counters, External, Options, Outcome};

/// Whether the tests are to run on a GPU.
pub fn wanted() -> bool {
    std::env::var("SEQPAR_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// One context and its kernels, for all tests of the process.
fn shared() -> &'static (Context, Kernels) {
    static SHARED: OnceLock<(Context, Kernels)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let context = Context::primary(0).unwrap();
        let images: Vec<&[u8]> = fatbins().collect();
        assert!(!images.is_empty(), "build the tests with --features kernels");
        // SAFETY: the fatbins that the compiler wrote into this crate.
        let kernels = unsafe { Kernels::load(&context, &images) }.unwrap();
        (context, kernels)
    })
}

pub struct DriverDevice {
    kernels: &'static Kernels,
    compute: Stream,
    /// What acts while a kernel runs.
    outside: Stream,
    memory: RefCell<Vec<DeviceMemory>>,
}

impl DriverDevice {
    pub fn new() -> Self {
        let (context, kernels) = shared();
        context.bind().unwrap();
        let [compute, outside] = [Priority::Low, Priority::High].map(|priority| Stream::new(priority).unwrap());
        Self { kernels, compute, outside, memory: RefCell::default() }
    }

    pub fn alloc(&self, bytes: usize, _name: &str) -> u64 {
        let memory = DeviceMemory::new(bytes.max(1)).unwrap();
        memory.fill(0xff, &self.compute).unwrap();
        self.compute.synchronize().unwrap();
        let address = memory.address();
        self.memory.borrow_mut().push(memory);
        address
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.with(address, |memory, offset| memory.write(offset, bytes, &self.compute).unwrap());
    }

    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.with(address, |memory, offset| memory.read(offset, &mut data, &self.compute).unwrap());
        data
    }

    pub fn mark(&self, address: u64, bytes: usize, initialised: bool) {
        if !initialised {
            self.write(address, &vec![0xff; bytes]);
        }
    }

    pub fn unwritten_bytes(&self, _address: u64, _bytes: usize) -> u64 {
        0
    }

    pub fn external_write(&self, address: u64, bytes: &[u8]) {
        self.with(address, |memory, offset| memory.write(offset, bytes, &self.outside).unwrap());
    }

    pub fn external_release(&self, address: u64, value: u32) {
        // SAFETY: a word of this device's memory, which lives until the device is dropped.
        unsafe { write_value(address, value, &self.outside) }.unwrap();
    }

    pub fn try_run(
        &self,
        launch: &Launch,
        _options: &Options,
        external: &mut Option<External<'_>>,
    ) -> Result<Outcome, String> {
        let params = self.kernels.encode(launch).map_err(|e| e.to_string())?;
        // SAFETY: addresses come from this device's memory; tests launch one kernel at a time.
        unsafe { self.kernels.launch(launch, &params, &self.compute) }.map_err(|e| e.to_string())?;
        let begin = Instant::now();
        let mut messages = Vec::new();
        loop {
            match self.compute.is_done() {
                Ok(true) => break,
                Ok(false) if begin.elapsed() > Duration::from_secs(60) => {
                    messages.push(format!("{} did not end within a minute", launch.symbol));
                    break;
                }
                Ok(false) => {}
                Err(error) => {
                    messages.push(error.to_string());
                    break;
                }
            }
            if let Some(act) = external {
                act();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(Outcome { counters: Counters::default(), messages, touched: None })
    }

    fn with(&self, address: u64, f: impl FnOnce(&DeviceMemory, usize)) {
        let all = self.memory.borrow();
        let holds = |m: &&DeviceMemory| address >= m.address() && address < m.address() + m.bytes().max(1) as u64;
        let memory = all.iter().find(holds).expect("an address of this device");
        f(memory, (address - memory.address()) as usize);
    }
}
