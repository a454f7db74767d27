//! What the command line of the kernel says: `vcpus=N host=NAME trace watchdog=SECONDS limit=SECONDS figures`.

use alloc::format;
use alloc::string::String;

use machine::host::{Policy, all_policies};

/// Most vCPUs.
const MOST_VCPUS: u8 = 8;

/// How to run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Number of vCPUs, from 1 on.
    pub(crate) vcpus: u8,
    /// How the host behaves.
    pub(crate) host: Policy,
    /// Whether events go to the second serial port.
    pub(crate) trace: bool,
    /// Whether marks say how many ticks each VMPL has run, and the first entry of each VMPL is told.
    pub(crate) figures: bool,
    /// Seconds without an exit of a guest after which it counts as stuck.
    pub(crate) watchdog: u64,
    /// Seconds after which the run ends whatever it does; 0 for never.
    pub(crate) limit: u64,
}

impl Options {
    /// Reads a command line.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut options = Self { vcpus: 1, host: Policy::Honest, trace: false, figures: false, watchdog: 20, limit: 0 };
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "vcpus" => {
                    let number = value.parse().ok().filter(|number| (1..=MOST_VCPUS).contains(number));
                    options.vcpus = number.ok_or_else(|| format!("vcpus={value}: a number from 1 to {MOST_VCPUS}"))?;
                }
                "host" => options.host = policy(value).ok_or_else(|| format!("host={value}: no such policy"))?,
                "trace" => options.trace = true,
                "figures" => options.figures = true,
                "watchdog" => options.watchdog = seconds(word, value)?,
                "limit" => options.limit = seconds(word, value)?,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

fn seconds(word: &str, value: &str) -> Result<u64, String> {
    let seconds = value.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.ok_or_else(|| format!("{word}: seconds from 1 to 3600"))
}

fn policy(name: &str) -> Option<Policy> {
    if name == "honest" {
        return Some(Policy::Honest);
    }
    all_policies().into_iter().find(|(known, ..)| *known == name).map(|(_, policy, _)| policy)
}
