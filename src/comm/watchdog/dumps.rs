use std::fs;
use std::io::Result;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use crate::comm::flight::Dump;

/// How long nobody hears of a failure because its records are being written: a disk may hang.
const LONGEST: Duration = Duration::from_millis(500);

/// Writes `flight-COMM-RANK.json`, by name of the communicator and global rank, before anybody hears
/// of the failure: who does may end the process.
pub(super) fn write_dumps(folder: &Path, rank: usize, dumps: impl Iterator<Item = Dump>) {
    let (folder, dumps) = (folder.to_path_buf(), dumps.collect::<Vec<Dump>>());
    let (tell, told) = sync_channel(1);
    let write = move || {
        for dump in &dumps {
            if let Err(error) = write_dump(&folder, rank, dump) {
                log::warn!("{}: cannot write the flight record of {}: {error}", folder.display(), dump.comm);
            }
        }
        let _ = tell.send(());
    };
    if let Err(error) = Builder::new().name(format!("dumps {rank}")).spawn(write) {
        return log::warn!("rank {rank}: no thread that writes flight records: {error}");
    }
    if told.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
        log::warn!("rank {rank}: its flight records are slow to write, or never will be");
    }
}

/// Whole or not at all.
fn write_dump(folder: &Path, rank: usize, dump: &Dump) -> Result<()> {
    let name: String = dump.comm.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let beside = folder.join(format!(".flight-{name}-{rank}.tmp"));
    fs::write(&beside, dump.json())?;
    fs::rename(&beside, folder.join(format!("flight-{name}-{rank}.json")))
}
