//! The table about the launch: what the firmware measures, in which order, and the VMSAs of hosts.

use backend_snp::abi::launch::{IdBlock, LowerPermissions, PageInfo, PageType};
use backend_snp::abi::segment::Segment;
use backend_snp::abi::sev_features::SevFeatures;
use backend_snp::abi::vmsa::Vmsa;
use backend_snp::launch::{LaunchDigest, Update, vmsa};
use sha2::{Digest, Sha384};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;
use zerocopy::IntoBytes;

use crate::compare::Fields;
use crate::table::{Row, expect, parse, plain, walk};

#[test]
fn launch_measurement() {
    let mut info = Fields::of::<PageInfo>();
    let mut block = Fields::of::<IdBlock>();
    let mut types = Vec::new();
    walk("launch_measurement", &[], |row| match (row.get("kind"), row.get("field")) {
        ("page_info", "vmpl_perms order A") => {
            order(row, LowerPermissions::vmpl1_first([1, 2, 3]), ["reserved", "VMPL1", "VMPL2", "VMPL3"])
        }
        ("page_info", "vmpl_perms order B") => {
            order(row, LowerPermissions::vmpl3_first([1, 2, 3]), ["VMPL3", "VMPL2", "VMPL1", "reserved"])
        }
        ("page_info", field) => {
            if field == "length" {
                expect(row.number("meaning") == size_of::<PageInfo>() as u64, "another length")?;
            }
            info.check(field, row.number("offset_or_value"), row.number("size"))
        }
        ("page_type", name) => {
            let number = row.number("offset_or_value");
            let found = PageType::ALL.into_iter().find(|page_type| u64::from(page_type.number()) == number);
            let page_type = found.ok_or("no such type")?;
            types.push(page_type);
            expect(plain(&format!("{page_type:?}")) == plain(name), "another name")?;
            let is_measured = row.get("meaning").contains("contents measured");
            expect(page_type.is_measured() == is_measured, "measured or not")
        }
        ("rule", "initial digest") => expect(LaunchDigest::new().bytes() == &[0; 48], "it does not begin with zeros"),
        ("rule", "step") => a_step_is_one_hash_of_page_info(),
        ("rule", "order") => every_type_and_address_counts_in_its_order(),
        ("id_block", "version") => {
            expect(row.number("meaning") == IdBlock::VERSION.into(), "another version")?;
            block.check("version", row.number("offset_or_value"), row.number("size"))
        }
        ("id_block", field) => block.check(field, row.number("offset_or_value"), row.number("size")),
        ("launch_vmsa", fields) => launch_vmsa(fields, row.get("meaning")),
        (kind, field) => Err(format!("unknown {kind} {field}")),
    });
    info.finish();
    block.finish();
    assert_eq!(types, PageType::ALL);
}

/// The bytes from 0x64 on, as the row names them.
fn order(row: &Row, permissions: LowerPermissions, names: [&str; 4]) -> Result<(), String> {
    let parts = names.iter().zip(0x64..).map(|(name, at)| format!("{at:#x} {name}")).collect::<Vec<_>>();
    expect(row.get("meaning") == parts.join(", "), "the row has another order")?;
    let want = names.map(|name| name.strip_prefix("VMPL").map_or(0, |number| number.parse().expect("a number")));
    expect(permissions.bytes() == want, "the bytes have another order")
}

fn update(page_type: PageType, gpa: u64) -> Update<'static> {
    Update::new(page_type, PhysFrame::containing_address(PhysAddr::new(gpa)), &[0x5a; 4096])
}

fn digest(updates: &[Update<'_>]) -> [u8; 48] {
    let mut digest = LaunchDigest::new();
    digest.extend(updates.iter().copied());
    *digest.bytes()
}

/// PAGE_INFO put together byte after byte.
fn a_step_is_one_hash_of_page_info() -> Result<(), String> {
    let mut want = [0; 48];
    let mut updates = Vec::new();
    for (page_type, gpa) in PageType::ALL.into_iter().zip([0_u64, 0x1000, 0xffff_ffff_f000, 0x2000, 0x3000, 0x4000]) {
        let contents: [u8; 48] = if page_type.is_measured() { Sha384::digest([0x5a; 4096]).into() } else { [0; 48] };
        let info = [&want[..], &contents, &[0x70, 0, page_type.number(), 0, 0, 0, 0, 0], &gpa.to_le_bytes()].concat();
        expect(info.len() == 0x70, "not 0x70 bytes")?;
        want = Sha384::digest(info).into();
        updates.push(update(page_type, gpa));
        expect(digest(&updates) == want, "another digest")?;
    }
    Ok(())
}

fn every_type_and_address_counts_in_its_order() -> Result<(), String> {
    for page_type in PageType::ALL {
        let [one, two] = [update(page_type, 0x1000), update(page_type, 0x2000)];
        let all = [digest(&[one]), digest(&[two]), digest(&[one, two]), digest(&[two, one])];
        let distinct = (0..4).all(|index| !all[index + 1..].contains(&all[index]));
        expect(distinct, "two launches have one digest")?;
    }
    Ok(())
}

/// One line about the VMSA of a vCPU in reset: a number, or parts of segments.
fn launch_vmsa(fields: &str, meaning: &str) -> Result<(), String> {
    let features = SevFeatures::SNP_ACTIVE;
    let vmsa = vmsa::reset(vmsa::RESET_VECTOR, 0x00a0_0f11, features);
    let number = || parse(meaning).ok_or("no number");
    let is = |value: u64| expect(number()? == value, &format!("it is {value:#x}"));
    let segments = |all: &[Segment]| all.iter().try_for_each(|segment| parts(segment, meaning));
    match fields {
        "CS" => segments(&[vmsa.cs]),
        "DS ES FS GS SS" => segments(&[vmsa.ds, vmsa.es, vmsa.fs, vmsa.gs, vmsa.ss]),
        "LDTR" => segments(&[vmsa.ldtr]),
        "TR" => segments(&[vmsa.tr]),
        "GDTR IDTR" => segments(&[vmsa.gdtr, vmsa.idtr]),
        "CR0" => is(vmsa.cr0),
        "CR4" => is(vmsa.cr4),
        "DR6" => is(vmsa.dr6),
        "DR7" => is(vmsa.dr7),
        "RFLAGS" => is(vmsa.rflags),
        "PAT" => is(vmsa.g_pat),
        "EFER" => is(vmsa.efer),
        "XCR0" => is(vmsa.xcr0),
        "MXCSR" => is(vmsa.mxcsr.into()),
        "FCW" => is(vmsa.x87_fcw.into()),
        "FTW" => is(vmsa.x87_ftw.into()),
        "RIP" => {
            expect(meaning == "0xfff0 (AP: from the reset block)" && vmsa.rip == 0xfff0, "another RIP")?;
            let other = vmsa::reset(0x0080_b004, 0, features);
            expect((other.rip, other.cs.base) == (0xb004, 0x80_0000), "not where the reset block says")
        }
        "RDX" => expect(meaning.starts_with("CPUID 1 EAX") && vmsa.rdx == 0x00a0_0f11, "not the signature"),
        "SEV_FEATURES" => {
            expect(meaning.contains("0x1 minimal") && vmsa.sev_features.bits() == 1, "not as configured")?;
            everything_else_is_zero(vmsa)
        }
        _ => Err("unknown field".to_owned()),
    }
}

/// Words such as `limit 0xffff`; what is not named is zero.
fn parts(segment: &Segment, meaning: &str) -> Result<(), String> {
    let words: Vec<&str> = meaning.split(' ').collect();
    let named = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
        pair.map_or(0, |pair| parse(pair[1]).expect("a number"))
    };
    let found = [segment.selector.into(), segment.base, segment.limit.into(), segment.attributes.bits().into()];
    expect(found == ["sel", "base", "limit", "attr"].map(named), &format!("it is {found:x?}"))
}

fn everything_else_is_zero(mut vmsa: Vmsa) -> Result<(), String> {
    let none = Segment::default();
    [vmsa.cs, vmsa.ds, vmsa.es, vmsa.fs, vmsa.gs, vmsa.ss, vmsa.ldtr, vmsa.tr, vmsa.gdtr, vmsa.idtr] = [none; 10];
    [vmsa.cr0, vmsa.cr4, vmsa.dr6, vmsa.dr7, vmsa.rflags, vmsa.rip, vmsa.g_pat, vmsa.efer, vmsa.xcr0, vmsa.rdx] =
        [0; 10];
    (vmsa.mxcsr, vmsa.x87_fcw, vmsa.sev_features) = (0, 0, SevFeatures::empty());
    expect(vmsa.as_bytes().iter().all(|byte| *byte == 0), "something else is set")
}
