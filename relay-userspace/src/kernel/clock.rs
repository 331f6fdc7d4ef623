//! Learning HZ: the programs count in jiffies, and how many make a second is decided when a kernel is built.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use aya::programs::{ProgramError, SchedClassifier, TestRun as _};
use aya::{EbpfLoader, TestRunOptions, VerifierLogLevel};
use relay_common::{names, tick};

use super::{Unavailable, object};

/// Jiffies against the monotonic clock are off by milliseconds; anything larger is a reading gone wrong.
const PLAUSIBLE_MS: u64 = 1500;

/// The kernel's HZ.
pub fn measure() -> Result<u32, Unavailable> {
    let failed = |error: String| Unavailable(format!("cannot read the kernel's clock: {error}"));
    let bytes = object::clock().ok_or_else(|| failed("built without eBPF".into()))?;
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .load(bytes)
        .map_err(|error| failed(error.to_string()))?;
    let program = ebpf.program_mut(names::CLOCK).ok_or_else(|| failed("the program is missing".into()))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|error| failed(format!("{error}")))?;
    program.load().map_err(|error| refused(&error))?;
    let (jiffies, nanoseconds) = read(program)?;
    let (hz, off) = tick::guess_hz(jiffies, nanoseconds);
    if off <= PLAUSIBLE_MS && is_clear(nanoseconds) {
        return Ok(hz);
    }
    // near the moment when all candidates agree, or on a clock that does not start at boot: measure a stretch
    thread::sleep(Duration::from_millis(200));
    let (later_jiffies, later) = read(program)?;
    let rate = (later_jiffies - jiffies) as f64 * 1e9 / (later - nanoseconds).max(1) as f64;
    let nearest = [100u32, 250, 300, 1000]
        .into_iter()
        .min_by(|a, b| (f64::from(*a) - rate).abs().total_cmp(&(f64::from(*b) - rate).abs()));
    Ok(nearest.unwrap_or(hz))
}

/// This is the first program that relayd loads, so here it shows where BPF is not to be had at all.
fn refused(error: &ProgramError) -> Unavailable {
    if let ProgramError::LoadError { io_error, .. } = error
        && io_error.kind() == ErrorKind::PermissionDenied
    {
        return Unavailable(
            "the kernel refuses BPF programs although the capabilities are there, as in a user namespace or a \
             container; run relayd on the host"
                .into(),
        );
    }
    Unavailable(format!("cannot read the kernel's clock: {error}"))
}

/// All values of HZ predict the same jiffies 300 s after boot, where their low half wraps.
fn is_clear(nanoseconds: u64) -> bool {
    (nanoseconds / 1_000_000_000).abs_diff(300) > 10
}

fn read(program: &SchedClassifier) -> Result<(u64, u64), Unavailable> {
    let packet = [0u8; 64];
    let mut out = [0u8; 64];
    let options =
        TestRunOptions { data_in: Some(&packet), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = program
        .test_run(options)
        .map_err(|error| Unavailable(format!("cannot run a program in the kernel: {error}")))?;
    let word =
        |at: usize| out.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    match (result.return_value, word(14), word(22)) {
        (0, Some(jiffies), Some(nanoseconds)) => Ok((jiffies, nanoseconds)),
        _ => Err(Unavailable("the kernel's clock gave no reading".into())),
    }
}
