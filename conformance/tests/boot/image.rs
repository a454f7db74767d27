//! From ELF files to an IGVM file that hosts load.

use backend_snp::abi::launch::PageType;
use backend_snp::abi::vmsa::Vmsa;
use backend_snp::launch::{Igvm, Update};
use conformance::boot::elf::{ElfError, Image};
use conformance::boot::file::file;
use conformance::snp::igvm::{Claims, load};
use image_layout::{
    CPUID, GUEST, GUEST_IMAGE, GuestImage, LAUNCH_VMSA, MONITOR, PARAMETERS, RAM_END, SECRETS, VCPU_COUNT,
};
use machine::{Config, Machine};
use zerocopy::FromBytes;

use crate::command::{Folder, conformance};
use crate::program::{CODE, DATA, Segment, elf, small};

fn monitor(file: &[u8]) -> Result<Image, ElfError> {
    Image::try_new(file, MONITOR..SECRETS)
}

/// Code, a hole, then data that goes on in memory.
fn parts() -> Vec<u8> {
    let (code, data) = ([0xc3; 0x1001], [0xda; 0x10]);
    let second = MONITOR + 0x4000;
    elf(MONITOR + 8, &[Segment(second + 0x20, &data, 0x1000, DATA), Segment(MONITOR, &code, 0x1001, CODE)])
}

#[test]
fn an_image_is_its_segments_and_zeros_between() {
    let image = monitor(&parts()).unwrap();
    assert_eq!((image.first, image.end(), image.entry), (MONITOR, MONITOR + 0x6000, MONITOR + 8));
    let mut wanted = vec![0; 0x6000];
    wanted[..0x1001].fill(0xc3);
    wanted[0x4020..0x4030].fill(0xda);
    assert!(image.bytes == wanted);
    let pages: Vec<u64> = image.pages().map(|(gpa, _)| gpa).collect();
    assert_eq!(pages, (0..6).map(|page| MONITOR + page * 0x1000).collect::<Vec<_>>());
}

#[test]
fn a_file_that_is_no_program_for_its_place_is_a_named_error() {
    let code = Segment(MONITOR, &[0xf4; 16], 0x1000, CODE);
    let rows = [
        (elf(MONITOR, &[]), ElfError::Empty),
        (elf(MONITOR, &[Segment(MONITOR, &[], 0, CODE)]), ElfError::Empty),
        (elf(MONITOR, &[Segment(MONITOR, &[0; 16], 15, CODE)]), ElfError::Truncated { virt: MONITOR }),
        (elf(MONITOR + 0x1000, &[code]), ElfError::Entry { entry: MONITOR + 0x1000 }),
        (elf(MONITOR, &[Segment(MONITOR, &[0xf4; 16], 0x1000, DATA)]), ElfError::Entry { entry: MONITOR }),
        (elf(MONITOR, &[code, Segment(MONITOR + 0xfff, &[1], 1, DATA)]), ElfError::Overlap { at: MONITOR + 0xfff }),
        (small(GUEST), ElfError::Outside { found: GUEST..GUEST + 0x1000, wanted: MONITOR..SECRETS }),
        (
            elf(MONITOR, &[code, Segment(SECRETS - 1, &[], 2, DATA)]),
            ElfError::Outside { found: SECRETS - 1..SECRETS + 1, wanted: MONITOR..SECRETS },
        ),
        (
            elf(MONITOR, &[code, Segment(MONITOR + 0x1000, &[], u64::MAX, DATA)]),
            ElfError::Outside { found: MONITOR + 0x1000..u64::MAX, wanted: MONITOR..SECRETS },
        ),
    ];
    for (file, wanted) in rows {
        assert_eq!(monitor(&file), Err(wanted));
    }
    // Kind, machine, class and byte order of the header; the physical address of the segment.
    for (at, value) in [(0x10, 3), (0x12, 40)] {
        let mut other = small(MONITOR);
        other[at] = value;
        assert_eq!(monitor(&other), Err(ElfError::OtherKind));
    }
    let mut moved = small(MONITOR);
    moved[64 + 24] ^= 1;
    assert_eq!(monitor(&moved), Err(ElfError::Moved { virt: MONITOR, phys: MONITOR + 1 }));
    for len in 0..small(MONITOR).len() {
        assert!(monitor(&small(MONITOR)[..len]).is_err(), "{len}");
    }
    for at in 0..64 {
        let mut changed = small(MONITOR);
        changed[at] ^= 0xff;
        let _ = monitor(&changed);
    }
}

/// Code, data, and memory of which the file has no byte: in its first page end the data.
fn with_memory() -> Vec<u8> {
    let data = MONITOR + 0x1000;
    elf(
        MONITOR,
        &[
            Segment(MONITOR, &[0xc3; 8], 8, CODE),
            Segment(data, &[0xda; 8], 0x1800, DATA),
            Segment(data + 0x1800, &[], 0x2000, DATA),
        ],
    )
}

#[test]
fn memory_that_the_monitor_zeroes_itself_is_loaded_and_not_measured() {
    let monitor = monitor(&with_memory()).unwrap();
    assert_eq!(monitor.blank.iter().copied().collect::<Vec<_>>(), [MONITOR + 0x3000, MONITOR + 0x4000]);
    // A guest is told that such memory is zero.
    let guest = Image::try_new(
        &elf(GUEST, &[Segment(GUEST, &[1], 1, CODE), Segment(GUEST + 0x1000, &[], 8, DATA)]),
        GUEST..RAM_END,
    );
    let bytes = file(&monitor, &guest.unwrap()).unwrap();
    let igvm = Igvm::try_new(&bytes).unwrap();
    let types: Vec<(u64, PageType)> = igvm
        .updates()
        .map(|update| (update.frame.start_address().as_u64(), update.page_type))
        .filter(|(gpa, _)| *gpa < SECRETS || *gpa >= GUEST && *gpa != LAUNCH_VMSA)
        .collect();
    let page = |number: u64, page_type| (MONITOR + number * 0x1000, page_type);
    let wanted = [
        page(0, PageType::Normal),
        page(1, PageType::Normal),
        page(2, PageType::Normal),
        page(3, PageType::Unmeasured),
        page(4, PageType::Unmeasured),
        (GUEST, PageType::Normal),
        (GUEST + 0x1000, PageType::Normal),
    ];
    assert_eq!(types, wanted);
}

fn both() -> (Image, Image) {
    let guest = elf(GUEST + 4, &[Segment(GUEST, &[0x90; 0x1800], 0x2800, CODE)]);
    (monitor(&parts()).unwrap(), Image::try_new(&guest, GUEST..RAM_END).unwrap())
}

#[test]
fn all_pages_of_both_images_are_measured_and_the_vmsa_comes_last() {
    let (monitor, guest) = both();
    let bytes = file(&monitor, &guest).unwrap();
    let updates: Vec<Update<'_>> = Igvm::try_new(&bytes).unwrap().updates().collect();
    let of = |gpa| updates.iter().find(|update| update.frame.start_address().as_u64() == gpa).unwrap();
    for (gpa, contents) in monitor.pages().chain(guest.pages()) {
        assert_eq!(of(gpa).page_type, PageType::Normal);
        assert!(of(gpa).contents == contents, "{gpa:#x}");
    }
    assert_eq!(of(SECRETS).page_type, PageType::Secrets);
    assert_eq!(of(CPUID).page_type, PageType::Cpuid);
    assert_eq!(of(PARAMETERS).page_type, PageType::Unmeasured);
    assert_eq!(of(GUEST_IMAGE).page_type, PageType::Normal);
    let told = GuestImage::decode(of(GUEST_IMAGE).contents.first_chunk().unwrap());
    assert_eq!(told, Some(GuestImage { first: GUEST, end: GUEST + 0x3000, entry: GUEST + 4 }));
    assert_eq!(updates.len(), 6 + 3 + 5);
    assert_eq!(updates.last(), Some(of(LAUNCH_VMSA)));
}

/// The launch VMSA has what QEMU takes from a file, and zeros elsewhere (vmsa).
#[test]
fn the_first_vcpu_starts_in_protected_mode_at_the_entry_of_the_monitor() {
    let (monitor, guest) = both();
    let bytes = file(&monitor, &guest).unwrap();
    let page = *Igvm::try_new(&bytes).unwrap().updates().last().unwrap().contents;
    let vmsa = Vmsa::read_from_bytes(&page).unwrap();
    assert_eq!((vmsa.rip, vmsa.rflags, vmsa.cr0, vmsa.cr3, vmsa.efer), (monitor.entry, 2, 0x11, 0, 0x1000));
    assert_eq!((vmsa.vmpl, vmsa.cpl, vmsa.sev_features.bits()), (0, 0, 1));
    for segment in [vmsa.cs, vmsa.ds, vmsa.es, vmsa.fs, vmsa.gs, vmsa.ss] {
        let attributes = if segment.selector == 8 { 0xc9b } else { 0xc93 };
        assert_eq!((segment.base, segment.limit, segment.attributes.bits()), (0, u32::MAX, attributes));
    }
    assert_eq!((vmsa.x87_ftw, vmsa.x87_fcw, vmsa.mxcsr, vmsa.xcr0), (0, 0x37f, 0x1f80, 1));
}

#[test]
fn a_host_loads_the_file_and_its_firmware_measures_the_same_digest() {
    let (monitor, guest) = both();
    let bytes = file(&monitor, &guest).unwrap();
    let mut machine = Machine::new(Config { ram: vec![(0, RAM_END), (LAUNCH_VMSA, 0x1000)], ..Config::default() });
    let claims = Claims { vcpus: 3, memory: Vec::new() };
    let vmsa = load(&mut machine, &bytes, &claims).unwrap();
    assert_eq!(vmsa, Some(LAUNCH_VMSA));
    assert_eq!(machine.psp().digest(), *Igvm::try_new(&bytes).unwrap().digest().bytes());
    assert_eq!(machine.peek(PARAMETERS + u64::from(VCPU_COUNT), 4, Some(0)), Some(vec![3, 0, 0, 0]));
    assert_eq!(machine.peek(MONITOR, 2, Some(0)), Some(vec![0xc3; 2]));
}

#[test]
fn the_command_writes_the_file_and_prints_digest_and_sizes() {
    let folder = Folder::new("image");
    let (monitor, guest) = (folder.write("monitor", &parts()), folder.write("guest", &small(GUEST)));
    let out = folder.path("out.igvm");
    let done = conformance(&["image", "--out", &out, "--monitor", &monitor, "--guest", &guest], &[]);
    assert_eq!((done.status, done.stderr.as_str()), (Some(0), ""));
    let bytes = std::fs::read(&out).unwrap();
    let digest = *Igvm::try_new(&bytes).unwrap().digest().bytes();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            format!("launch digest: {digest}").as_str(),
            "policy: 0x30000",
            "monitor: 6 pages, 24576 bytes at 0x100000..0x106000, entry 0x100008",
            "guest: 1 pages, 4096 bytes at 0x400000..0x401000, entry 0x400000",
            "measured in all: 9 pages, 36864 bytes",
            &format!("file: {} bytes", bytes.len()),
        ]
    );
    // The same programs give the same file.
    let again = folder.path("again.igvm");
    conformance(&["image", "--out", &again, "--monitor", &monitor, "--guest", &guest], &[]);
    assert!(std::fs::read(&again).unwrap() == bytes);
}

#[test]
fn a_wrong_program_is_one_sentence_and_no_file() {
    let folder = Folder::new("wrong");
    let (monitor, guest) = (folder.write("monitor", &small(MONITOR)), folder.write("guest", &small(GUEST)));
    let text = folder.write("text", b"not a program");
    let out = folder.path("out.igvm");
    let missing = folder.path("missing");
    for (monitor, guest, sentence) in [
        (&text, &guest, format!("{text}: not an ELF file: ")),
        (&monitor, &text, format!("{text}: not an ELF file: ")),
        (&missing, &guest, format!("{missing}: No such file")),
        (
            &monitor,
            &monitor,
            format!("{monitor}: the segment 0x100000..0x101000 lies outside of 0x400000..0x8000000\n"),
        ),
        (&guest, &guest, format!("{guest}: the segment 0x400000..0x401000 lies outside of 0x100000..0x3f0000\n")),
    ] {
        let done = conformance(&["image", "--out", &out, "--monitor", monitor, "--guest", guest], &[]);
        done.expect_sentence(2, &sentence);
        assert!(!std::path::Path::new(&out).exists());
    }
    let nowhere = format!("{missing}/out.igvm");
    let done = conformance(&["image", "--out", &nowhere, "--monitor", &monitor, "--guest", &guest], &[]);
    done.expect_sentence(2, &format!("{nowhere}: No such file"));
}
