//! One IGVM file, three launch digests: of `backend_snp::launch`, of the crate `igvm`, and of the machine that loads it.

mod files;
mod measure;
mod mutated;
mod told;

use backend_snp::launch::Igvm;
use conformance::snp::igvm::{Claims, load};
use igvm::measurement::generate_snp_measurement;
use igvm::{IgvmFile, IgvmSerializer, IsolationType};
use igvm_defs::{IgvmPageDataFlags as Flags, IgvmPageDataType as DataType, IgvmPlatformType};
use machine::{Config, Machine};
use proptest::prelude::*;

use files::{MASK, directives, file, files, normal, page};
use told::assert_same_steps;

/// The three digests of a file.
fn digests(file: &[u8]) -> [[u8; 48]; 3] {
    let ours = Igvm::try_new(file).unwrap_or_else(|error| panic!("{error}"));
    let theirs = IgvmFile::new_from_binary(file, Some(IsolationType::Snp)).expect("igvm reads the file");
    let theirs = generate_snp_measurement(theirs.initializations(), theirs.directives(), MASK).expect("it is for SNP");
    let mut machine = Machine::new(Config { ram: vec![(0, 32 << 20)], ..Config::default() });
    load(&mut machine, file, &Claims { vcpus: 4, memory: Vec::new() }).expect("the machine loads the file");
    [*ours.digest().bytes(), theirs, machine.psp().digest()]
}

fn expect_one_digest(what: &str, file: &[u8]) -> [u8; 48] {
    let [ours, theirs, measured] = digests(file);
    assert_eq!(ours, theirs, "{what}: igvm computes another digest");
    assert_eq!(ours, measured, "{what}: the machine measures another digest");
    assert_same_steps(what, file);
    ours
}

#[test]
fn three_digests_of_every_kind_of_file_are_one() {
    let all: Vec<_> =
        files().into_iter().map(|(what, directives)| expect_one_digest(what, &file(directives))).collect();
    let [one, .., hints] = &all[..] else { panic!("no files") };
    assert_eq!(one, hints, "a hint is measured");
    for (index, digest) in all[..all.len() - 1].iter().enumerate() {
        assert!(!all[index + 1..all.len() - 1].contains(digest), "two files have one digest");
    }
}

/// The crate's serializer computes the measurement when it is made.
#[test]
fn the_measurement_that_igvm_attaches_to_a_file_is_the_same() {
    for (what, directives) in files() {
        let file = file(directives);
        let built = IgvmFile::new_from_binary(&file, None).expect("igvm reads the file");
        let serializer = IgvmSerializer::new(&built).expect("it measures the file");
        let theirs = serializer.measurement_for(IgvmPlatformType::SEV_SNP).expect("the file is for SNP");
        let ours = Igvm::try_new(&file).expect("the file is right").digest();
        assert_eq!(&theirs.digest, ours.bytes(), "{what}");
    }
}

/// A page data header with the flag for 2 MiB has 2 MiB of contents: what 512 small ones measure.
#[test]
fn a_large_page_measures_as_its_small_ones_do() {
    let small = (0..512).map(|index| normal(0x20_0000 + index * 0x1000, (index as u8).wrapping_add(1)));
    let small = file(small.collect());
    let [want, ..] = digests(&small);
    let mut large = file(vec![page(0x20_0000, DataType::NORMAL, Flags::new().with_is_2mb_page(true), vec![1; 0x1000])]);
    for index in 1..512 {
        large.resize(large.len() + 0x1000, (index as u8).wrapping_add(1));
    }
    let total = large.len() as u32;
    large[16..20].copy_from_slice(&total.to_le_bytes());
    mutated::seal(&mut large);
    assert_eq!(Igvm::try_new(&large).expect("a large page").digest().bytes(), &want);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_digests_of_a_generated_file_are_one(directives in directives()) {
        expect_one_digest("generated", &file(directives));
    }
}
