//! Faults at a chosen system call of a real process.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::ledger::PATIENCE;

/// What changes a disk, or asks it to keep what was changed.
pub const WRITING: &str = "write,pwrite64,writev,pwritev,fdatasync,fsync,sync_file_range,ftruncate,fallocate,openat,\
                           rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat";

/// A system call: which one on which file, and the how manieth of its thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub name: String,
    pub file: PathBuf,
    pub number: usize,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} number {} on {}", self.name, self.number, self.file.display())
    }
}

/// Whether processes can be traced here; if not, it is said aloud what was not tried.
pub fn possible(what: &str) -> bool {
    let probe = Command::new("strace").args(["-D", "-f", "-qq", "-o", "/dev/null", "true"]).status();
    let possible = probe.as_ref().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("SKIPPED: strace can't trace here ({probe:?}); {what} was not tried");
    }
    possible
}

/// `command` with its calls written to `log`. It stays this process's own child.
pub fn traced(command: &Command, log: &Path) -> Command {
    around(command, log, &["-e", &format!("trace={WRITING}")])
}

/// `command`, with `fault` (as strace's `inject` has it) at that call.
pub fn faulty(command: &Command, log: &Path, call: &Call, fault: &str) -> Command {
    let (name, number) = (&call.name, call.number);
    let file = call.file.to_str().unwrap();
    let inject = format!("inject={name}:{fault}:when={number}");
    around(command, log, &["-e", &format!("trace={name}"), "-e", &inject, "-P", file])
}

fn around(command: &Command, log: &Path, options: &[&str]) -> Command {
    let mut around = Command::new("strace");
    around.args(["-D", "-f", "-q", "-y", "-ttt", "-o"]).arg(log).args(options);
    around.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => around.env(name, value),
            None => around.env_remove(name),
        };
    }
    around
}

/// The calls in `log` that change something below `dir`, in the order of their first occurrence. Waits until the process
/// `pid` is seen to have ended.
pub fn calls(log: &Path, pid: u32, dir: &Path) -> Vec<Call> {
    let (dir, began) = (dir.to_str().unwrap(), Instant::now());
    let ended = |text: &str| text.lines().any(|line| line.starts_with(&format!("{pid} ")) && line.contains("+++ "));
    let mut text = fs::read_to_string(log).unwrap_or_default();
    while !ended(&text) {
        assert!(began.elapsed() < PATIENCE, "strace has not seen the end");
        std::thread::sleep(Duration::from_millis(10));
        text = fs::read_to_string(log).unwrap_or_default();
    }
    let (mut counts, mut seen, mut calls) = (HashMap::new(), HashSet::new(), Vec::new());
    for line in text.lines() {
        // Thread, time, call; the first is padded.
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, arguments)) = rest.trim_start().split_once(' ').and_then(|(_, call)| call.split_once('('))
        else {
            continue;
        };
        let Some(start) = arguments.find(dir) else { continue };
        let file = arguments[start..].split(['"', '>']).next().unwrap();
        if name.contains(' ') || !(file == dir || file[dir.len()..].starts_with('/')) {
            continue;
        }
        let count = counts.entry((thread.to_owned(), name.to_owned(), file.to_owned())).or_insert(0);
        *count += 1;
        let call = Call { name: name.to_owned(), file: file.into(), number: *count };
        let changes = name != "openat" || arguments.contains("O_CREAT");
        if changes && seen.insert(call.clone()) {
            calls.push(call);
        }
    }
    calls
}

/// When the fault came, in seconds since 1970; none if it never did.
pub fn injected_at(log: &Path) -> Option<f64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().find(|line| line.contains("(INJECTED)"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Of all, every one in a soak, else `smoke` of them, spread evenly.
pub fn chosen<T: Clone>(all: &[T], smoke: usize) -> Vec<T> {
    if std::env::var_os("KEYLEDGER_SOAK").is_some() || all.len() <= smoke {
        return all.to_vec();
    }
    (0..smoke).map(|number| all[number * (all.len() - 1) / (smoke - 1)].clone()).collect()
}
