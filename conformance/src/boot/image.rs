//! `cargo conformance image`: an IGVM file from two ELF files.

use std::fmt::Display;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use backend_snp::launch::Igvm;
use image_layout::{GUEST, MONITOR, RAM_END, SECRETS};

use super::build::IMAGES;
use super::elf::Image;
use super::file::file;
use crate::hex;

/// Where the file goes, and what is in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    programs: Programs,
}

/// The two programs of an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Programs {
    /// Take this ELF file for the monitor, and do not build it
    #[arg(long, value_name = "FILE")]
    pub(super) monitor: Option<PathBuf>,
    /// Take this ELF file for the guest, and do not build it
    #[arg(long, value_name = "FILE")]
    pub(super) guest: Option<PathBuf>,
}

/// Writes the file, and prints its digest and sizes.
///
/// # Errors
/// One sentence: a program does not build or is no image for its place, or the file cannot be written.
pub(crate) fn print(arguments: &Arguments) -> Result<bool, String> {
    let Built { monitor, guest, file } = arguments.programs.build()?;
    let igvm = Igvm::try_new(&file).map_err(|error| format!("the new file is not right: {error}"))?;
    fs::write(&arguments.out, &file).map_err(|error| complaint(&arguments.out, &error))?;
    let measured = igvm.updates().filter(|update| update.page_type.is_measured()).count();
    println!("launch digest: {}", hex::encode(igvm.digest().bytes()));
    println!("policy: {:#x}", igvm.policy().bits());
    for (name, image) in [("monitor", &monitor), ("guest", &guest)] {
        println!("{name}: {}, entry {:#x}", sizes(image.pages().count(), image.first..image.end()), image.entry);
    }
    if !monitor.blank.is_empty() {
        println!("of the monitor not measured: {} pages that it zeroes itself", monitor.blank.len());
    }
    println!("measured in all: {measured} pages, {} bytes", measured as u64 * image_layout::PAGE);
    println!("file: {} bytes", file.len());
    Ok(true)
}

fn sizes(pages: usize, range: Range<u64>) -> String {
    format!("{pages} pages, {} bytes at {range:#x?}", range.end - range.start)
}

/// An image with what it was made of.
pub(super) struct Built {
    monitor: Image,
    guest: Image,
    /// The IGVM file.
    pub(super) file: Vec<u8>,
}

impl Programs {
    /// Builds what was not given, and makes the file.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn build(&self) -> Result<Built, String> {
        // What was given is looked at before cargo takes its time.
        let given = |path: &Option<PathBuf>, place| path.as_deref().map(|path| read(path, place)).transpose();
        let monitor = given(&self.monitor, MONITOR..SECRETS)?;
        let guest = given(&self.guest, GUEST..RAM_END)?;
        let (monitor, guest) = match (monitor, guest) {
            (Some(monitor), Some(guest)) => (monitor, guest),
            (monitor, guest) => {
                let built = IMAGES.build()?;
                let or_built =
                    |given: Option<Image>, name, place| given.map_or_else(|| read(&built.join(name), place), Ok);
                (or_built(monitor, "monitor", MONITOR..SECRETS)?, or_built(guest, "guest", GUEST..RAM_END)?)
            }
        };
        let file = file(&monitor, &guest).map_err(|error| format!("no IGVM file can be made: {error}"))?;
        Ok(Built { monitor, guest, file })
    }
}

fn read(path: &Path, place: Range<u64>) -> Result<Image, String> {
    let file = fs::read(path).map_err(|error| complaint(path, &error))?;
    Image::try_new(&file, place).map_err(|error| complaint(path, &error))
}

/// A sentence about a file.
pub(super) fn complaint(path: &Path, error: &dyn Display) -> String {
    format!("{}: {error}", path.display())
}
