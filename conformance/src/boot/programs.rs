//! What boots for those who run cases or work: emulator, monitor, and a guest that is told what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image_cases::Selection;
use image_layout::{GUEST, MONITOR, RAM_END, SECRETS};

use super::build::{EMULATOR, IMAGES};
use super::capture::{self, Clock};
use super::elf::Image;
use super::file::file;
use super::image::complaint;
use crate::emulated::Boot;

/// Seconds that a boot has, and for every case in it.
const BOOT_S: u64 = 60;
const CASE_S: u64 = 5;

/// What boots.
pub(super) struct Programs {
    emulator: PathBuf,
    /// The monitor in memory.
    pub(super) monitor: Image,
    /// The same with companions.
    with_companions: Image,
    /// The guest as cargo built it: it runs no case.
    guest: Vec<u8>,
}

impl Programs {
    /// Builds them; the monitor only if none is given.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn build(monitor: Option<&Path>) -> Result<Self, String> {
        let images = IMAGES.build()?;
        let emulator = EMULATOR.build()?.join("emulator");
        let read = |path: &Path| fs::read(path).map_err(|error| complaint(path, &error));
        let image =
            |path: &Path| Image::try_new(&read(path)?, MONITOR..SECRETS).map_err(|error| complaint(path, &error));
        let with_companions = image(&images.join("monitor-with-companions"))?;
        let monitor = image(&monitor.map_or_else(|| images.join("monitor"), Path::to_owned))?;
        Ok(Self { emulator, monitor, with_companions, guest: read(&images.join("suite"))? })
    }

    /// Where the kernel is that does nothing.
    pub(super) fn nothing(&self) -> PathBuf {
        self.emulator.with_file_name("nothing")
    }

    /// The file for a boot.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn prepare<'a>(&'a self, boot: &'a Boot) -> Result<Prepared<'a>, String> {
        let mut guest = self.guest.clone();
        select(&mut guest, &boot.selection())?;
        let guest = Image::try_new(&guest, GUEST..RAM_END).map_err(|error| format!("the guest: {error}"))?;
        let monitor = if boot.companions { &self.with_companions } else { &self.monitor };
        let igvm = file(monitor, &guest).map_err(|error| format!("no IGVM file can be made: {error}"))?;
        let image = Scratch(IMAGES.file(&format!("emulated-{}.igvm", std::process::id())));
        fs::write(&image.0, igvm).map_err(|error| complaint(&image.0, &error))?;
        Ok(Prepared { emulator: &self.emulator, image, boot })
    }
}

/// The monitor with a guest that is told what to do.
pub(super) struct Prepared<'a> {
    emulator: &'a Path,
    image: Scratch,
    boot: &'a Boot,
}

impl Prepared<'_> {
    /// Boots. Gives the lines of the console, each of which goes to `on_line` when it comes.
    ///
    /// # Errors
    /// As [`capture::Boot::follow`].
    pub(super) fn boot(&self, figures: Option<Clock>, on_line: impl FnMut(&str)) -> Result<Vec<String>, String> {
        let Self { emulator, image: Scratch(image), boot } = self;
        let timeout = Duration::from_secs(BOOT_S + CASE_S * boot.cases.len() as u64);
        capture::Boot { emulator, image, cpus: boot.vcpus.into(), host: boot.host, timeout, figures }.follow(on_line)
    }
}

/// A file that goes when it is out of use.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a selection where the guest has it: behind the only magic in the file.
///
/// # Errors
/// One sentence for a file without one.
fn select(guest: &mut [u8], selection: &Selection) -> Result<(), String> {
    let magic = Selection::MAGIC.to_le_bytes();
    let mut places = guest.windows(magic.len()).enumerate().filter(|(_, bytes)| *bytes == magic);
    let (Some((at, _)), None) = (places.next(), places.next()) else {
        return Err("the guest is none that runs cases: it has no place for their numbers".to_owned());
    };
    let words = selection.words().map(u64::to_le_bytes);
    let into = guest.get_mut(at + magic.len()..).unwrap_or_default();
    for (place, word) in into.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_stands_behind_the_only_magic() {
        let selection = Selection::NONE.with(0).with(65);
        let mut file = [&[7; 5][..], &Selection::MAGIC.to_le_bytes(), &[0; 8 * Selection::WORDS], &[9; 3]].concat();
        select(&mut file, &selection).unwrap();
        assert_eq!(file[13..21], 1_u64.to_le_bytes());
        assert_eq!(file[21..29], 2_u64.to_le_bytes());
        assert_eq!((&file[..5], &file[file.len() - 3..]), (&[7; 5][..], &[9; 3][..]));
        let twice = [Selection::MAGIC.to_le_bytes(); 2].concat();
        for mut bad in [Vec::new(), vec![0; 64], twice] {
            assert!(select(&mut bad, &selection).is_err());
        }
    }
}
