//! Outputs: files that appear whole or not at all, and the two standard streams.
//!
//! A file is claimed before the work, which finds an unwritable path early, and written to a
//! temporary file beside it afterwards, which is renamed at the end. Anything that is no regular
//! file (a pipe, /dev/null) is written directly and never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::fault::{Fault, Result};

/// Prints to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| {
        if !text.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        stdout.flush()
    });
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Fault::ClosedPipe),
        Err(error) => Err(Fault::Data(format!("cannot write to stdout: {error}"))),
    }
}

/// Prints a line to stderr; there is nowhere to report a failure of that.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A file that a command will write.
pub(crate) struct Output {
    flag: &'static str,
    path: PathBuf,
    /// Where the bytes go: the path with symbolic links followed.
    target: PathBuf,
    is_file: bool,
}

impl Output {
    /// Checks that the file named by `flag` can be written.
    pub(crate) fn claim(flag: &'static str, path: &Path) -> Result<Self> {
        let cannot = |why: String| Fault::Data(format!("{}: cannot write it ({flag}): {why}", path.display()));
        let Some(name) = path.file_name() else {
            return Err(cannot("it names no file".into()));
        };
        let (target, is_file) = match fs::metadata(path) {
            Ok(facts) if facts.is_dir() => return Err(cannot("it is a directory".into())),
            Ok(facts) if facts.permissions().readonly() => return Err(cannot("it is read-only".into())),
            Ok(facts) => (fs::canonicalize(path).map_err(|error| cannot(error.to_string()))?, facts.is_file()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(cannot("it is a symbolic link to nothing".into()));
                }
                let folder = fs::canonicalize(folder_of(path)).map_err(|error| cannot(error.to_string()))?;
                (folder.join(name), true)
            }
            Err(error) => return Err(cannot(error.to_string())),
        };
        let output = Self { flag, path: path.to_path_buf(), target, is_file };
        if output.is_file {
            let temporary = output.temporary();
            File::create_new(&temporary).map_err(|error| cannot(error.to_string()))?;
            let _ = fs::remove_file(temporary);
        }
        Ok(output)
    }

    /// The path as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn temporary(&self) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        self.target.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
    }

    fn cannot(&self, error: &std::io::Error) -> Fault {
        Fault::Data(format!("{}: cannot write it ({}): {error}", self.path.display(), self.flag))
    }
}

/// Refuses two outputs at one place, and an output over an input.
pub(crate) fn keep_apart(outputs: &[&Output], inputs: &[(&str, &Path)]) -> Result<()> {
    for (i, output) in outputs.iter().enumerate().filter(|(_, output)| output.is_file) {
        if let Some(other) = outputs[..i].iter().find(|other| other.target == output.target) {
            let why = format!("{} and {} name the same file {}", other.flag, output.flag, output.path.display());
            return Err(Fault::Usage(format!("{why}: name two")));
        }
        for (flag, input) in inputs {
            if fs::canonicalize(input).is_ok_and(|input| input == output.target) {
                let why = format!("{} would overwrite {flag} {}", output.flag, input.display());
                return Err(Fault::Usage(format!("{why}: name another file")));
            }
        }
    }
    Ok(())
}

/// Writes all files: none is renamed into place before all are on disk.
pub(crate) fn commit(files: Vec<(Output, Vec<u8>)>) -> Result<()> {
    let mut staged = Staged(Vec::new());
    for (output, bytes) in &files {
        if output.is_file {
            let temporary = output.temporary();
            let mut file = File::create_new(&temporary).map_err(|error| output.cannot(&error))?;
            staged.0.push(temporary);
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| output.cannot(&error))?;
        } else {
            let opened = OpenOptions::new().write(true).open(&output.target);
            opened.and_then(|mut file| file.write_all(bytes)).map_err(|error| output.cannot(&error))?;
        }
    }
    for (output, _) in files.iter().filter(|(output, _)| output.is_file) {
        fs::rename(output.temporary(), &output.target).map_err(|error| output.cannot(&error))?;
    }
    Ok(())
}

/// Temporary files; what was not renamed is removed.
struct Staged(Vec<PathBuf>);

impl Drop for Staged {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
