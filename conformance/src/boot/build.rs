//! Builds bare-metal programs with cargo.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-none";

/// A workspace of bare-metal programs beside this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    /// What its programs are, for people.
    what: &'static str,
    /// Its folder, from the root of this workspace.
    folder: &'static str,
    /// Where it is built, likewise.
    target: &'static str,
}

/// Monitor and guest.
pub(super) const IMAGES: Workspace =
    Workspace { what: "images", folder: "conformance/images", target: "target/images" };

/// What they run on.
pub(super) const EMULATOR: Workspace =
    Workspace { what: "emulator", folder: "conformance/emulator", target: "target/emulator" };

impl Workspace {
    /// A file beside what is built.
    pub(super) fn file(self, name: &str) -> PathBuf {
        root().join(self.target).join(name)
    }

    /// Builds all of it, with cargo's messages on standard error. Gives the folder with the programs.
    ///
    /// # Errors
    /// One sentence: there is no cargo, no source, or it does not build.
    pub(super) fn build(self) -> Result<PathBuf, String> {
        let root = root();
        let manifest = root.join(self.folder).join("Cargo.toml");
        if !manifest.is_file() {
            return Err(format!("the source of the {} is not there: {}", self.what, manifest.display()));
        }
        let target = root.join(self.target);
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root).args(["build", "--release", "--locked", "--target", TARGET]);
        cargo.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target);
        // Programs tell places in their source; where that lies here must not be part of what is measured.
        let places = [(root.to_path_buf(), "."), (cargo_home(), "cargo")];
        let flags = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={flags:?}"));
        // The flags for bare metal stand in .cargo/config.toml; those of the environment would replace them.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.ends_with("RUSTFLAGS")) {
                cargo.env_remove(name);
            }
        }
        let status = cargo.status().map_err(|error| format!("cargo does not start: {error}"))?;
        if !status.success() {
            return Err(format!("cargo does not build the {}: {status}", self.what));
        }
        Ok(target.join(TARGET).join("release"))
    }
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The root of this workspace.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
