//! What the kernel knows of this process, read from `/proc`.
//!
//! The `prometheus` crate has a collector for this, behind a feature that brings `libc` and two more crates along; this is
//! all of it that the `process_*` metrics need. Elsewhere than on Linux there is nothing to read, and nothing is told.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Kernel clock ticks a second in `/proc` (`USER_HZ`): 100 on every architecture that Rust's Linux targets run on.
const TICKS: f64 = 100.0;
/// How old a reading may be. Counting open files costs a walk over all of them.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The resources this process uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// User and system time so far, in seconds.
    pub cpu_seconds: f64,
    /// Memory held, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many file descriptors may be open; `None` is no limit.
    pub max_fds: Option<u64>,
    /// When the process started, in seconds since 1970.
    pub start_time_seconds: f64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// A reading of this moment; `None` where there is no `/proc`.
    #[must_use]
    pub fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
        Some(Self {
            cpu_seconds: stat.cpu_ticks / TICKS,
            resident_bytes: field(&status, "VmRSS:")?.parse::<u64>().ok()? * 1024,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            max_fds: max_fds(&fs::read_to_string("/proc/self/limits").ok()?),
            start_time_seconds: boot + stat.start_ticks / TICKS,
            threads: field(&status, "Threads:")?.parse().ok()?,
        })
    }
}

/// Keeps a reading for a second, so that the cost of `/metrics` does not grow with who asks.
#[derive(Debug, Default)]
pub struct Reader(Mutex<Option<(Instant, Option<Process>)>>);

impl Reader {
    /// The process as it was at most a second before `now`.
    #[must_use]
    pub fn process(&self, now: Instant) -> Option<Process> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *kept {
            Some((at, process)) if now.saturating_duration_since(at) < MAX_AGE => process,
            _ => kept.insert((now, Process::read())).1,
        }
    }
}

/// What is taken from `/proc/self/stat` (proc_pid_stat(5)).
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    /// The second field is the program's name in parentheses and may hold anything, so counting starts at the last one.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |field_of_the_manual: usize| fields.get(field_of_the_manual - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: number(14)? + number(15)?, start_ticks: number(22)? })
    }
}

/// When the machine started, in seconds since 1970.
fn boot_time(stat: &str) -> Option<f64> {
    field(stat, "btime")?.parse().ok()
}

fn max_fds(limits: &str) -> Option<u64> {
    field(limits, "Max open files")?.parse().ok()
}

/// The first word behind `name`, which begins a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_cannot_shift_the_fields() {
        let line = "7 (a ) 1 2) S 1 7 7 0 -1 4194560 99 0 0 0 150 50 0 0 20 0 4 0 12300 1000 200 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (200.0, 12300.0));
    }

    #[test]
    fn limits_are_numbers_or_none() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024     4096   files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds(&limits.replace("1024", "unlimited")), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_read() {
        let process = Process::read().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.resident_bytes > 100_000 && process.open_fds >= 3 && process.threads >= 1, "{process:?}");
        assert!((now - 86_400.0..=now + 5.0).contains(&process.start_time_seconds), "{process:?} at {now}");
    }

    #[test]
    fn a_reading_is_kept_for_a_second() {
        let reader = Reader::default();
        let now = Instant::now();
        let first = reader.process(now);
        assert_eq!(reader.process(now + Duration::from_millis(999)), first);
        assert_eq!(reader.0.lock().unwrap().unwrap().0, now, "no second reading was taken");
    }
}
