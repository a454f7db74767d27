//! Counting by valgrind's callgrind: this program runs itself under it, and reads what it counted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io, process};

/// Functions that do not count have this in their names: they lie below a module that is called so.
const UNCOUNTED: &str = "uncounted";

/// A way to count: the programs that do it, and a folder for what they say.
pub(super) struct Callgrind<'a> {
    valgrind: &'a OsStr,
    program: &'a Path,
    folder: Folder,
}

/// A folder that is gone when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over in a folder for temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl<'a> Callgrind<'a> {
    /// Counts by `valgrind` what `program` does.
    ///
    /// # Errors
    /// No folder can be made.
    pub(super) fn new(valgrind: &'a OsStr, program: &'a Path) -> Result<Self, String> {
        let folder = env::temp_dir().join(format!("conformance-count-{}", process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { valgrind, program, folder: Folder(folder) })
    }

    /// Instructions from each call of the functions that match `collect` to its end, when the program runs with `words`.
    ///
    /// # Errors
    /// Valgrind is missing or failed, the work failed, or no such function was called.
    pub(super) fn count(&self, collect: &str, words: &[String]) -> Result<u64, String> {
        let out = self.folder.0.join("out");
        let run = Command::new(self.valgrind)
            .args(["--tool=callgrind", &format!("--toggle-collect={collect}")])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(self.program)
            .arg("count")
            .args(words)
            .output();
        let output = run.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "instructions were not counted: valgrind is not installed (on Debian: apt-get install valgrind)"
                    .to_owned()
            }
            _ => format!("valgrind: {error}"),
        })?;
        let what = words.join(" ");
        if !output.status.success() {
            return Err(format!("counting {what}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
        }
        let text = fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        match sum(&text).ok_or_else(|| format!("counting {what}: callgrind writes another format"))? {
            0 => Err(format!("counting {what}: no function `{collect}` was called")),
            count => Ok(count),
        }
    }
}

/// Sums a profile up, but for the functions that do not count. `None` when the lines do not come to the total.
///
/// The format: a function begins with `fn=`, a line of its own cost is a position and a count, and the line behind `calls=` has
/// the cost of what it called. A name comes once in full, `(number) name`, and then as its number.
fn sum(profile: &str) -> Option<u64> {
    let mut names = HashMap::new();
    let (mut counts, mut is_callee) = (false, false);
    let (mut all, mut counted, mut total) = (0_u64, 0_u64, None);
    for line in profile.lines() {
        if let Some((key, value)) = line.split_once('=') {
            if let "fn" | "cfn" = key {
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                let is_uncounted = *names.entry(number).or_insert_with(|| name.contains(UNCOUNTED));
                counts = if key == "fn" { !is_uncounted } else { counts };
            }
            is_callee |= key == "calls";
        } else if let Some(value) = line.strip_prefix("totals: ") {
            total = value.parse().ok();
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost: u64 = line.split_once(' ')?.1.parse().ok()?;
            if !std::mem::take(&mut is_callee) {
                all += cost;
                counted += if counts { cost } else { 0 };
            }
        }
    }
    (total == Some(all)).then_some(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
creator: callgrind-3.19.0
cmd:  conformance count validate snp 1
positions: line
events: Ir
summary: 100

ob=(1) /program
fl=(1) serve.rs
fn=(1) monitor::serve
12 7
+2 40
cfn=(2) null::uncounted::zero
calls=1 20
-1 30
fi=(2) other.rs
5 20

fn=(2)
20 30
* 3

totals: 100
";

    #[test]
    fn own_costs_are_summed_up_but_for_what_does_not_count() {
        assert_eq!(sum(PROFILE), Some(67));
    }

    #[test]
    fn a_profile_that_does_not_come_to_its_total_is_none() {
        assert_eq!(sum(&PROFILE.replace("+2 40", "+2 41")), None);
        assert_eq!(sum(&PROFILE.replace("totals: 100", "")), None);
        assert_eq!(sum(&PROFILE.replace("12 7", "12 7 7")), None);
    }

    #[test]
    fn a_missing_valgrind_is_named() {
        let program = env::current_exe().expect("a test has a program");
        let callgrind = Callgrind::new(OsStr::new("no-valgrind-here"), &program).expect("a folder");
        let error = callgrind.count("*", &[]).expect_err("there is none");
        assert!(error.contains("valgrind is not installed"), "{error}");
    }
}
