//! Reading the config and the files that it names: small regular files only, so that nothing here can hang or swell.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::Complaint;

/// The whole file, if it is a regular one of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Complaint> {
    // Asked before opening: opening a FIFO waits for a writer.
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if metadata.is_dir() {
        return Err(Complaint::new("this is a folder, not a file"));
    }
    if !metadata.is_file() {
        return Err(Complaint::new("this is not a regular file").help("pipes, sockets and devices are not read"));
    }
    if metadata.len() > most {
        return Err(too_large(most));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > most {
        return Err(too_large(most));
    }
    Ok(bytes)
}

fn unreadable(error: &io::Error) -> Complaint {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Complaint::new(format!("the file cannot be read: {reason}"))
}

pub(super) fn too_large(most: u64) -> Complaint {
    Complaint::new(format!("the file is larger than {} KiB", most / 1024))
}
