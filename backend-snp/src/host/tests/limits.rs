//! Counts and lengths: those of the caller before anything is sent, those of the host after it.

use std::string::ToString;
use std::vec;

use coco_part_api::{Error, ErrorKind, FrameRange, RangeError};
use x86_64::PhysAddr;

use super::forms::device;
use super::{GHCB, page};
use crate::error::SnpError;
use crate::host::{GhcbPage, MAX_PAGES_NEEDED, Paged, PortAccess, PortSize, Segment, SharedAddr};
use crate::testing::{BITMAP, Memory, MockPort, frame, range, reply};

/// RAX and RBX in the page.
const RAX: usize = 0x1f8;
const RBX: usize = 0x318;

/// A page over a host that answers with these registers and the same SW_EXITINFO2, all fields valid.
fn answering(memory: &Memory, rax: u64, rbx: u64, info_2: u64) -> (GhcbPage<Memory>, MockPort) {
    let view = memory.clone();
    page(memory, move |_| {
        reply(&view, GHCB, 0, info_2);
        view.set_word(GHCB as usize + RAX, rax);
        view.set_word(GHCB as usize + RBX, rbx);
        view.bytes()[GHCB as usize + BITMAP..][..16].fill(0xff);
    })
}

/// A page over a host that is not to be asked.
fn unasked(memory: &Memory) -> (GhcbPage<Memory>, MockPort) {
    page(memory, |_| panic!("nothing may be sent"))
}

#[test]
fn a_string_carries_the_whole_shared_buffer_and_no_more() {
    let sizes = [(PortSize::Byte, 1), (PortSize::Word, 2), (PortSize::Dword, 4)];
    for (size, element) in sizes {
        let access = PortAccess::new(0x10, size);
        let memory = Memory::new();
        let (mut ghcb, mut port) = answering(&memory, 0, 0, 0);
        let mut data = vec![0; 2032];
        ghcb.port_in_string(&mut port, access, &mut data).unwrap();
        ghcb.port_out_string(&mut port, access, Segment::Ds, &data).unwrap();
        assert_eq!(memory.word(GHCB as usize + 0x800), 0);
        let (mut ghcb, mut port) = unasked(&memory);
        let (broken, too_many) = (2032 - element / 2, 2032 + element);
        for bytes in [0, too_many, 4096].into_iter().chain((element > 1).then_some(broken)) {
            let error = Err(SnpError::BadLength { given: bytes, most: 2032, element });
            let mut data = vec![0; bytes];
            assert_eq!(ghcb.port_in_string(&mut port, access, &mut data), error);
            assert_eq!(ghcb.port_out_string(&mut port, access, Segment::Ds, &data), error);
        }
    }
}

#[test]
fn the_count_of_a_string_is_the_guests() {
    // The host claims another count and fills the whole buffer.
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| {
        reply(&view, GHCB, 0, u64::MAX);
        view.bytes()[GHCB as usize + 0x800..GHCB as usize + 0xff0].fill(0x77);
    });
    let mut data = [0; 12];
    let access = PortAccess::new(0x1f0, PortSize::Word);
    ghcb.port_in_string(&mut port, access, &mut data[..4]).unwrap();
    assert_eq!(data, [0x77, 0x77, 0x77, 0x77, 0, 0, 0, 0, 0, 0, 0, 0]);
    // One look at the answer, one at the data.
    assert_eq!(memory.reads().as_slice(), [(GHCB + 0x398, 0x68), (GHCB + 0x800, 4)]);
}

#[test]
fn a_refused_read_leaves_the_callers_buffer_alone() {
    let memory = Memory::new();
    let view = memory.clone();
    let (mut ghcb, mut port) = page(&memory, move |_| {
        reply(&view, GHCB, 2, 5);
        view.bytes()[GHCB as usize + 0x800..GHCB as usize + 0xff0].fill(0x77);
    });
    let mut data = [0xee; 8];
    let refused = Err(SnpError::MalformedRequest { code: 5 });
    assert_eq!(ghcb.port_in_string(&mut port, PortAccess::new(1, PortSize::Byte), &mut data), refused);
    assert_eq!(ghcb.mmio_read(&mut port, device(0x8000), &mut data), refused);
    assert_eq!(data, [0xee; 8]);
}

#[test]
fn only_the_bits_of_a_port_access_count() {
    let memory = Memory::new();
    for (size, value, shown) in [(PortSize::Byte, 0x89, 0x21), (PortSize::Word, 0x6789, 0x4321)] {
        let (mut ghcb, mut port) = answering(&memory, 0xf123_4567_1234_6789, 0, 0);
        let access = PortAccess::new(0x60, size);
        assert_eq!(ghcb.port_in(&mut port, access), Ok(value));
        let view = memory.clone();
        let (mut ghcb, mut port) = page(&memory, move |_| {
            assert_eq!(view.word(GHCB as usize + RAX), shown);
            reply(&view, GHCB, 0, 0);
        });
        ghcb.port_out(&mut port, access, 0x8765_4321).unwrap();
    }
}

#[test]
fn a_device_access_stays_in_its_page_and_in_the_shared_buffer() {
    let memory = Memory::new();
    let (mut ghcb, mut port) = unasked(&memory);
    let mut data = [0; 4096];
    for bytes in [0, 2033, 4096] {
        let error = Err(SnpError::BadLength { given: bytes, most: 2032, element: 1 });
        assert_eq!(ghcb.mmio_read(&mut port, device(0x8000), &mut data[..bytes]), error);
        assert_eq!(ghcb.mmio_write(&mut port, device(0x8000), &data[..bytes]), error);
    }
    for (offset, bytes) in [(0xfff, 2), (0xff9, 8), (0x811, 2032)] {
        let at = 0x8000 + offset;
        let error = Err(SnpError::Range(RangeError::OutsideMap { at: PhysAddr::new(at) }));
        assert_eq!(ghcb.mmio_read(&mut port, device(at), &mut data[..bytes]), error);
        assert_eq!(ghcb.mmio_write(&mut port, device(at), &data[..bytes]), error);
    }
    let (mut ghcb, mut port) = answering(&memory, 0, 0, 0);
    for (offset, bytes) in [(0, 1), (0xfff, 1), (0xff8, 8), (0x810, 2032)] {
        ghcb.mmio_read(&mut port, device(0x8000 + offset), &mut data[..bytes]).unwrap();
    }
}

#[test]
fn a_private_address_is_no_device() {
    let at = |address| PhysAddr::new(address);
    let private = |address| Err(SnpError::PrivateAddress { at: at(address) });
    let c_bit = 1 << 51;
    assert_eq!(SharedAddr::try_new(at(c_bit | 0x8000), 51, |_| false), private(c_bit | 0x8000));
    assert_eq!(SharedAddr::try_new(at(0x8010), 51, |page| page == frame(0x8000)), private(0x8010));
    assert_eq!(SharedAddr::try_new(at(0x8010), 51, |_| false).unwrap().address(), at(0x8010));
    // The encryption bit is where the CPUID page says.
    assert_eq!(SharedAddr::try_new(at(1 << 47), 47, |_| false), private(1 << 47));
    assert!(SharedAddr::try_new(at(1 << 47), 51, |_| false).is_ok());
    assert_eq!(SharedAddr::try_new(at(0x8000), 64, |_| false), private(0x8000));
    let error = SnpError::PrivateAddress { at: at(0x8000) };
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("0x8000"));
}

#[test]
fn pages_of_a_message_do_not_overlap() {
    let memory = Memory::new();
    let (mut ghcb, mut port) = unasked(&memory);
    let overlap = |at: u64| SnpError::Range(RangeError::Overlap { at: PhysAddr::new(at) });
    let (request, response) = (frame(0x5000), frame(0x6000));
    assert_eq!(ghcb.guest_request(&mut port, request, request), Err(overlap(0x5000)));
    assert_eq!(ghcb.extended_guest_request(&mut port, request, request, None), Err(overlap(0x5000)));
    let own = frame(GHCB);
    assert_eq!(ghcb.guest_request(&mut port, own, response), Err(overlap(GHCB)));
    assert_eq!(ghcb.extended_guest_request(&mut port, request, own, None), Err(overlap(GHCB)));
    for data in [range(0x3000, 0x3000), range(0x6000, 0x1000), range(0x4000, 0x9000), range(GHCB, 0x1000)] {
        let at = data.start().as_u64();
        assert_eq!(ghcb.extended_guest_request(&mut port, request, response, Some(data)), Err(overlap(at)));
    }
}

#[test]
fn a_demand_for_pages_is_more_than_given_and_not_too_many() {
    let data = range(0x8000, 0x3000);
    let given: [(Option<FrameRange>, u64); 2] = [(None, 0), (Some(data), 3)];
    for (pages, given) in given {
        for needed in [0, 1, 3, 4, MAX_PAGES_NEEDED, MAX_PAGES_NEEDED + 1, u64::MAX] {
            let memory = Memory::new();
            let possible = given < needed && needed <= MAX_PAGES_NEEDED;
            let refused = SnpError::PagesNeeded { given, needed };
            // The host says that the pages are too few, in SW_EXITINFO2.
            let (mut ghcb, mut port) = answering(&memory, 0, needed, 1 << 32);
            let answer = ghcb.extended_guest_request(&mut port, frame(0x5000), frame(0x6000), pages);
            assert_eq!(answer, if possible { Ok(Paged::PagesNeeded(needed)) } else { Err(refused) });
            // Here only RAX says it; as many as were given are enough.
            let (mut ghcb, mut port) = answering(&memory, needed, 0, 0);
            let expected = match pages {
                Some(_) if needed <= given => Ok(Paged::Done(0)),
                _ if possible => Ok(Paged::PagesNeeded(needed)),
                _ => Err(refused),
            };
            assert_eq!(ghcb.apic_ids(&mut port, pages, &mut [0; 4]), expected);
        }
    }
    assert_eq!(SnpError::PagesNeeded { given: 3, needed: 3 }.kind(), ErrorKind::HostMisbehaved);
}

#[test]
fn a_list_of_vcpus_is_copied_once_and_fits_its_pages() {
    let pages = range(0x8000, 0x1000);
    let list = |count: u32| {
        let memory = Memory::new();
        let (ghcb, port) = answering(&memory, 1, 0, 0);
        let words = core::iter::once(count).chain(0x100..0x200);
        for (index, word) in words.enumerate() {
            memory.bytes()[0x8000 + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
        }
        (memory, ghcb, port)
    };
    let mut ids = [0xeeee; 4];
    let (memory, mut ghcb, mut port) = list(3);
    assert_eq!(ghcb.apic_ids(&mut port, Some(pages), &mut ids), Ok(Paged::Done(3)));
    assert_eq!(ids, [0x100, 0x101, 0x102, 0xeeee]);
    let reads = memory.reads();
    assert_eq!(reads.as_slice(), [(GHCB + RAX as u64, 0x208), (0x8000, 4), (0x8004, 12)]);
    for (count, error) in [
        (5, SnpError::BufferTooSmall { needed: 20, given: 16 }),
        (1023, SnpError::BufferTooSmall { needed: 4092, given: 16 }),
        (1024, SnpError::ListTooLong { count: 1024, most: 1023 }),
        (u32::MAX, SnpError::ListTooLong { count: u32::MAX.into(), most: 1023 }),
    ] {
        let (_, mut ghcb, mut port) = list(count);
        assert_eq!(ghcb.apic_ids(&mut port, Some(pages), &mut ids), Err(error));
        assert_eq!(ids, [0x100, 0x101, 0x102, 0xeeee]);
    }
    let (_, mut ghcb, mut port) = list(0);
    assert_eq!(ghcb.apic_ids(&mut port, Some(pages), &mut []), Ok(Paged::Done(0)));
    assert_eq!(SnpError::ListTooLong { count: 1, most: 0 }.kind(), ErrorKind::HostMisbehaved);
}

#[test]
fn registers_are_copied_once() {
    let memory = Memory::new();
    let (mut ghcb, mut port) = answering(&memory, 1, 2, 0);
    ghcb.rdtscp(&mut port).unwrap();
    assert_eq!(memory.reads().as_slice(), [(GHCB + RAX as u64, 0x208)]);
}
