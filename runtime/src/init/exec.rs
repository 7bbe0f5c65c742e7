//! Finding the program and becoming it, with Docker's words for what goes wrong.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use rustix::fs::{CWD, FileType, OFlags};

use super::child::Never;
use super::handshake::{Failure, Plan};
use crate::confined::open_in_root;
use crate::error::Stage;
use crate::spec::DEFAULT_PATH;
use crate::sys;

/// Enters `directory`, which the image may have filled with anything: `/proc/self/fd/…` and other
/// links that leave the root are refused (CVE-2024-21626).
pub(super) fn enter(directory: &str) -> io::Result<()> {
    let directory = open_in_root(CWD, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::process::fchdir(&directory)?;
    // The kernel says "(unreachable)/…" of a directory that is not below the root.
    if !rustix::process::getcwd(Vec::new())?.to_bytes().starts_with(b"/") {
        rustix::process::chdir("/")?;
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    Ok(())
}

/// Executes the program of `plan`.
pub(super) fn execute(plan: &Plan) -> Result<Never, Failure> {
    let name = plan.arguments.first().map_or("", String::as_str);
    let path = find(name, &plan.environment)?;
    let nul = |_| failed(name, format!("exec: {name:?}: invalid argument"), libc::EINVAL);
    let path = CString::new(path).map_err(nul)?;
    let arguments = strings(&plan.arguments).map_err(nul)?;
    // A word without "=" is no variable; were it passed on, programs that look such names up
    // elsewhere might find them.
    let environment = strings(
        plan.environment.iter().filter(|variable| variable.find('=').is_some_and(|at| at > 0)),
    )
    .map_err(nul)?;
    let error = sys::execute(None, &path, &pointers(&arguments), &pointers(&environment));
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let path = path.to_string_lossy();
    Err(failed(name, format!("exec {path}: {}", reason(errno)), errno))
}

/// The path of the program `name`: itself if it has a slash, else the first one of that name in
/// the search path of `environment` that this process may execute.
fn find(name: &str, environment: &[String]) -> Result<String, Failure> {
    let quoted = format!("exec: {name:?}");
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(errno @ (libc::ENOENT | libc::ENOTDIR)) => {
                Err(failed(name, format!("{quoted}: stat {name}: {}", reason(errno)), errno))
            }
            Err(errno) => Err(failed(name, format!("{quoted}: {}", reason(errno)), errno)),
        };
    }
    let search_path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    if !name.is_empty() {
        for directory in search_path.split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            let path = format!("{directory}/{name}");
            if executable(&path).is_ok() {
                return Ok(path);
            }
        }
    }
    Err(failed(name, format!("{quoted}: executable file not found in $PATH"), libc::ENOENT))
}

/// Whether `path` is a file that this process may execute; the error number if not.
fn executable(path: &str) -> Result<(), i32> {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    let status = rustix::fs::stat(&*path).map_err(|errno| errno.raw_os_error())?;
    if FileType::from_raw_mode(status.st_mode).is_dir() {
        return Err(libc::EISDIR);
    }
    if status.st_mode & 0o111 == 0 {
        return Err(libc::EACCES);
    }
    let allowed: &CStr = &path;
    sys::may_execute(allowed).map_err(|error| error.raw_os_error().unwrap_or(libc::EACCES))
}

/// The C library's words for an error number, without the number, in lower case as Docker has it.
fn reason(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.rsplit_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

fn failed(name: &str, message: String, errno: i32) -> Failure {
    Failure { stage: Stage::Exec, object: Some(name.to_owned()), message: Some(message), errno }
}

fn strings<'a>(
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<CString>, std::ffi::NulError> {
    texts.into_iter().map(|text| CString::new(text.as_str())).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, environment: &[&str]) -> (String, i32) {
        let environment: Vec<String> = environment.iter().map(|text| text.to_string()).collect();
        let failure = find(name, &environment).unwrap_err();
        (failure.message.unwrap(), failure.errno)
    }

    #[test]
    fn failures_have_dockers_words() {
        assert_eq!(
            message("no-such-program", &["PATH=/bin"]),
            (
                "exec: \"no-such-program\": executable file not found in $PATH".to_owned(),
                libc::ENOENT
            )
        );
        assert_eq!(
            message("/no/such", &[]),
            (
                "exec: \"/no/such\": stat /no/such: no such file or directory".to_owned(),
                libc::ENOENT
            )
        );
        assert_eq!(
            message("/etc", &[]),
            ("exec: \"/etc\": is a directory".to_owned(), libc::EISDIR)
        );
        assert_eq!(
            message("/etc/passwd", &[]),
            ("exec: \"/etc/passwd\": permission denied".to_owned(), libc::EACCES)
        );
        assert_eq!(
            message("", &[]),
            ("exec: \"\": executable file not found in $PATH".to_owned(), libc::ENOENT)
        );
    }

    #[test]
    fn the_last_path_of_the_environment_is_searched() {
        let environment = ["PATH=/nowhere".to_owned(), "PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find("sh", &environment).unwrap(), "/bin/sh");
    }

    #[test]
    fn without_a_path_the_usual_directories_are_searched() {
        assert!(find("sh", &[]).unwrap().ends_with("/sh"));
    }
}
