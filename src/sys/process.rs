//! Processes of this machine.

use std::fs;
use std::time::{Duration, SystemTime};

use nix::sched::{CpuSet, sched_getaffinity};
#[cfg(feature = "server")]
use nix::unistd::{Group, User};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The number of a user of this machine.
#[cfg(feature = "server")]
pub(crate) fn user_id(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The number of a group of this machine.
#[cfg(feature = "server")]
pub(crate) fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Whether this thread may run on more than one processor. One system call, where
/// `std::thread::available_parallelism` also reads the files of its control groups.
pub(crate) fn has_several_processors() -> bool {
    let allowed = |set: CpuSet| {
        let mut processors = (0..CpuSet::count()).filter(|it| set.is_set(*it).unwrap_or(false));
        processors.nth(1).is_some()
    };
    // A machine whose processors do not fit in the set has many.
    sched_getaffinity(Pid::from_raw(0)).ok().is_none_or(allowed)
}

/// When a process was started, to a second. `None` if it is not visible here.
pub(crate) fn start_time(pid: i32) -> Option<SystemTime> {
    let hertz = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let ticks = ticks_at_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
    let since = boot.checked_add(ticks.checked_div(hertz)?)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since))
}

/// The 22nd field. The second one is a name in brackets, which may have blanks and brackets.
fn ticks_at_start(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// In seconds since 1970.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_was_started_before_now() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let age = SystemTime::now().duration_since(start_time(pid).unwrap()).unwrap();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
        assert_eq!(start_time(0), None);
    }

    #[test]
    fn a_name_cannot_shift_the_fields() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) b (c)) {}", fields.join(" "));
        assert_eq!(ticks_at_start(&stat), Some(22));
        assert_eq!([ticks_at_start(""), ticks_at_start("7 (a) S 1")], [None, None]);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
    }
}
