//! Tests against the clock that fail beside others are run again by themselves: only who fails then, too, fails the run.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};

use crate::root;
use crate::tools::{print, say};

/// More failures than these are not a busy machine's.
const MOST: usize = 5;
/// What libtest ends with when tests have failed, and nothing worse has happened.
const TESTS_FAILED: i32 = 101;

/// Runs a test program, and what has failed once more, one by one with nothing beside.
pub fn run(program: &Path, filter: &[&str]) -> anyhow::Result<()> {
    let (status, said) = hear(program, filter)?;
    if status.success() {
        return Ok(());
    }
    let Some(failed) = few_failed(status.code(), &said) else {
        bail!("{} failed ({status})", program.display());
    };
    say(&format!("failed, and once more with nothing beside: {}", failed.join(", ")));
    let (status, said) = hear(program, &[&["--exact", "--test-threads=1"], &*failed].concat())?;
    if !status.success() || !all_passed(&failed, &said) {
        bail!("{} failed again ({status})", program.display());
    }
    for name in failed {
        say(&format!("flaky: {name} failed beside others and passed alone"));
    }
    Ok(())
}

/// Who failed, if that is all that went wrong, and the machine may have been too busy for them.
fn few_failed(code: Option<i32>, said: &str) -> Option<Vec<&str>> {
    let failed = named(said, "FAILED");
    (code == Some(TESTS_FAILED) && (1..=MOST).contains(&failed.len())).then_some(failed)
}

fn all_passed(names: &[&str], said: &str) -> bool {
    let passed = named(said, "ok");
    names.iter().all(|name| passed.contains(name))
}

/// Runs it to its end, and shows what it prints as it comes.
fn hear(program: &Path, args: &[&str]) -> anyhow::Result<(ExitStatus, String)> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let mut said = String::new();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
        let line = line?;
        print(&line);
        said += &line;
        said.push('\n');
    }
    Ok((child.wait()?, said))
}

/// Tests that have ended so, by libtest's lines.
fn named<'a>(said: &'a str, ending: &str) -> Vec<&'a str> {
    let name = |line: &'a str| line.strip_prefix("test ")?.strip_suffix(ending)?.strip_suffix(" ... ");
    said.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "
running 4 tests
test forward::udp_of_many_sizes ... ok
test forward::tcp_both_ways ... FAILED
test wire::ends ... ignored
test on_down::all ... FAILED

failures:

---- forward::tcp_both_ways stdout ----
test that nothing ... FAILED to come
failures:
    forward::tcp_both_ways
    on_down::all

test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.77s
";

    #[test]
    fn tests_are_told_by_how_they_ended() {
        assert_eq!(named(SAID, "FAILED"), ["forward::tcp_both_ways", "on_down::all"]);
        assert_eq!(named(SAID, "ok"), ["forward::udp_of_many_sizes"]);
        assert!(named("test a ... FAILE", "FAILED").is_empty());
    }

    #[test]
    fn a_few_failures_are_worth_another_try_and_a_crash_is_not() {
        let failures = |count: usize| "test name ... FAILED\n".repeat(count);
        assert_eq!(few_failed(Some(101), SAID).unwrap().len(), 2);
        assert!(few_failed(None, SAID).is_none(), "ended by a signal");
        assert!(few_failed(Some(1), SAID).is_none());
        assert!(few_failed(Some(101), "").is_none(), "nobody knows what failed");
        assert!(few_failed(Some(101), &failures(MOST)).is_some());
        assert!(few_failed(Some(101), &failures(MOST + 1)).is_none());
    }

    #[test]
    fn who_was_not_found_again_has_not_passed() {
        assert!(all_passed(&["a"], "running 1 test\ntest a ... ok\n"));
        assert!(!all_passed(&["a", "b"], "test a ... ok\n"));
        assert!(!all_passed(&["a"], "running 0 tests\n"));
    }
}
