//! Where an archive is written: a file that appears when it is complete, or a stream.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::ExportError;

/// Where an archive goes.
pub enum Destination<'a> {
    /// A file, replaced whole at the end.
    File(&'a Path),
    /// A stream, such as standard output.
    Writer(&'a mut dyn Write),
}

impl std::fmt::Debug for Destination<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Destination::Writer(_) => formatter.write_str("Writer"),
        }
    }
}

impl Destination<'_> {
    /// Lets `write` write. A file is not there, or still the old one, until that has succeeded.
    pub(crate) fn write<T>(
        self,
        write: impl FnOnce(&mut dyn Write) -> Result<T, ExportError>,
    ) -> Result<T, ExportError> {
        match self {
            Destination::Writer(out) => {
                let mut out = BufWriter::with_capacity(1 << 20, out);
                let answer = write(&mut out)?;
                out.flush().map_err(stream_failed)?;
                Ok(answer)
            }
            Destination::File(path) => to_file(path, write),
        }
    }
}

fn stream_failed(source: std::io::Error) -> ExportError {
    ExportError::Write { path: "the output stream".into(), source }
}

fn to_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, ExportError>,
) -> Result<T, ExportError> {
    let failed = |source| ExportError::Write { path: path.to_owned(), source };
    // A device or a pipe (`/dev/stdout`, a named pipe) cannot be replaced, only written to.
    if fs_err::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = fs_err::OpenOptions::new().write(true).open(path).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let answer = write(&mut out)?;
        out.flush().map_err(failed)?;
        return Ok(answer);
    }
    let name = path.file_name().ok_or_else(|| {
        failed(std::io::Error::new(std::io::ErrorKind::IsADirectory, "not a file name"))
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    let part = Part { path: path.with_file_name(hidden) };
    let file = fs_err::File::create(&part.path).map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let answer = write(&mut out)?;
    out.flush().map_err(failed)?;
    drop(out);
    fs_err::rename(&part.path, path).map_err(failed)?;
    Ok(answer)
}

/// The unfinished file, which goes if it is not renamed.
struct Part {
    path: std::path::PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Usually it is renamed already.
        let _ = fs_err::remove_file(&self.path);
    }
}
