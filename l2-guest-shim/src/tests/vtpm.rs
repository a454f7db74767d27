use std::vec;

use coco_part_api::svsm::CallResult;
use coco_part_api::{Error, ErrorKind};
use x86_64::PhysAddr;

use super::{CALL_AREA, Lie, RAM, World, frame, negotiated, shim};
use crate::ShimError;
use crate::codec::TPM_COMMAND;

const BUFFER: u64 = 0x5000;

#[test]
fn a_command_goes_through_the_page_and_its_response_comes_back() {
    let (mut shim, world, _) = shim();
    let mut response = [0xff; 12];
    assert_eq!(shim.vtpm_command(frame(BUFFER), b"0123456789", &mut response), Ok(10));
    assert_eq!(&response, b"9876543210\xff\xff");
    assert_eq!(world.get().calls.last().map(|regs| (regs.rax, regs.rcx)), Some((TPM_COMMAND.to_rax(), BUFFER)));
    let longest = vec![7; 4087];
    assert_eq!(shim.vtpm_command(frame(BUFFER), &longest, &mut vec![0; 4092]), Ok(4087));
    world.get().lies.push_back(Lie::Result(CallResult::BUSY.0));
    assert_eq!(shim.vtpm_command(frame(BUFFER), b"again", &mut response), Ok(5));
}

#[test]
fn refuses_bad_lengths_and_pages_before_l1_is_asked() {
    let (mut shim, world, _) = shim();
    for len in [0, 4088, 5000] {
        let error = shim.vtpm_command(frame(BUFFER), &vec![0; len], &mut [0; 64]).unwrap_err();
        assert_eq!(error, ShimError::CommandLength { given: len, most: 4087 });
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let outside = shim.vtpm_command(frame(RAM), b"!", &mut [0; 64]).unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::OutOfRange);
    let in_use = shim.vtpm_command(frame(CALL_AREA), b"!", &mut [0; 64]).unwrap_err();
    assert_eq!(in_use, ShimError::FrameInUse { at: PhysAddr::new(CALL_AREA) });
    assert!(world.get().calls.is_empty());
}

#[test]
fn refuses_responses_that_cannot_be_or_do_not_fit() {
    let (mut shim, world, _) = shim();
    let error = shim.vtpm_command(frame(BUFFER), b"0123456789", &mut [0; 9]).unwrap_err();
    assert_eq!(error, ShimError::BufferTooSmall { needed: 10, given: 9 });
    // What L1 leaves there is the head of the command: its platform command is 8, and its first four bytes a length.
    world.get().lies.push_back(Lie::Result(0));
    assert_eq!(shim.vtpm_command(frame(BUFFER), b"0123456789", &mut [0; 64]), Ok(8));
    for size in [4093_u32, u32::MAX] {
        world.get().lies.push_back(Lie::Overwrite(BUFFER, size));
        let error = shim.vtpm_command(frame(BUFFER), b"!", &mut [0; 8192]).unwrap_err();
        assert_eq!(error, ShimError::BadAnswer { what: "length of a vTPM response", value: size.into() });
    }
}

#[test]
fn says_whether_there_is_a_vtpm() {
    let (mut shim, world, _) = shim();
    assert_eq!(shim.has_vtpm(), Ok(true));
    // It is there, but takes no commands.
    world.get().lies.extend([Lie::Regs(1 << 32 | 1, 0, 0), Lie::Regs(0, 0, 0)]);
    assert_eq!(shim.has_vtpm(), Ok(false));
    let (shim, world, _) = negotiated(World { vtpm: 0, ..World::default() });
    assert_eq!(shim.unwrap().has_vtpm(), Ok(false));
    assert_eq!(world.get().calls.len(), 4);
}
