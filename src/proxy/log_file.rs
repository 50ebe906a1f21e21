//! Where the access log is written, whatever becomes of the disk.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::Complaints;

/// Writes whole lines, counts those that cannot be written, and tells when that begins and when it is over. It never fails: whoever
/// hands over lines could do nothing about it.
pub(super) struct LogFile {
    writer: Box<dyn Write + Send>,
    lost: Arc<AtomicU64>,
    trouble: Trouble,
}

#[derive(Default)]
struct Trouble {
    /// The last line stands there in part.
    is_torn: bool,
    /// Lines that were lost since it was told; `None` while it has not been.
    told: Option<u64>,
    /// A disk on which now and then there is room for a line is not told of each time.
    complaints: Complaints,
}

impl LogFile {
    /// `lost` counts the lines that could not be written.
    pub(super) fn new(writer: Box<dyn Write + Send>, lost: Arc<AtomicU64>) -> Self {
        Self { writer, lost, trouble: Trouble::default() }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.trouble.is_torn {
            self.writer.write_all(b"\n")?;
            self.trouble.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.trouble.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Trouble {
    fn begins(&mut self, error: &io::Error) {
        let Self { told, complaints, .. } = self;
        if let Some(lost) = told {
            *lost += 1;
            return;
        }
        complaints.complain(|| {
            tracing::warn!(%error, "the access log cannot be written; its lines are lost and counted");
            *told = Some(1);
        });
    }

    fn is_over(&mut self) {
        if let Some(lost) = self.told.take() {
            tracing::info!(lost, "the access log is written again");
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.write_line(line) {
            Ok(()) => self.trouble.is_over(),
            Err(error) => {
                self.lost.fetch_add(1, Relaxed);
                self.trouble.begins(&error);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A disk with room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= taken;
            written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_lost_are_counted_and_the_next_one_begins_a_line() {
        let (disk, lost) = (Disk::default(), Arc::new(AtomicU64::new(0)));
        let mut file = LogFile::new(Box::new(disk.clone()), Arc::clone(&lost));
        disk.0.lock().unwrap().1 = 12;
        for line in [b"one.....\n", b"two.....\n", b"three...\n"] {
            file.write_all(line).unwrap();
        }
        assert_eq!((lost.load(Relaxed), file.trouble.told), (2, Some(2)));
        disk.0.lock().unwrap().1 = 100;
        file.write_all(b"four....\n").unwrap();
        assert_eq!((lost.load(Relaxed), file.trouble.told), (2, None));
        assert_eq!(disk.0.lock().unwrap().0, b"one.....\ntwo\nfour....\n");
    }
}
