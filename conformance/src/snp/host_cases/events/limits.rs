//! Counts, lengths and addresses of strings and devices.

use backend_snp::SnpError;
use backend_snp::host::{PortAccess, PortSize, Segment, SharedAddr};
use machine::host::{DEVICE_PAGE, LOOPBACK_PORT, Policy};
use x86_64::PhysAddr;

use super::open_at_l1;
use crate::snp::host_cases::{as_l1, case, exits_of_l1, under};
use crate::snp::platform::Snp;
use crate::suite::{Bench, Case, Check, Kind, same};
use crate::world::layout::{FREE, MONITOR_DATA};

/// The cases of this file.
pub(super) fn cases() -> Vec<Case<Snp>> {
    vec![
        case!(
            "H1-string-count",
            "H1",
            ["GH-08"],
            HostileHost,
            "the count of a string is the guest's: a host that returns more changes no byte behind it",
            string_count
        ),
        case!(
            "H1-device-on-private-page",
            "H1",
            ["GH-11"],
            Contract,
            "device access to a private page, or with the encryption bit, is refused before the host hears of it",
            private_page
        ),
        case!(
            "H1-lengths-of-data",
            "H1",
            ["GH-08"],
            Contract,
            "data of no length, of more than the shared buffer or across the end of a page is refused before any exit",
            lengths
        ),
    ]
}

fn string_count(bench: &mut Bench<Snp>) -> Check {
    for count in [0, 1, 5, 2032, u64::MAX] {
        let (_, result) = as_l1(bench, under(bench, Policy::StringCount(count)), |l1| -> Result<_, SnpError> {
            let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
            let words = PortAccess::new(LOOPBACK_PORT, PortSize::Word);
            ghcb.port_out_string(&mut port, words, Segment::Ds, &[1, 2, 3, 4])?;
            let mut data = [0xee; 16];
            let (asked, behind) = data.split_at_mut(4);
            ghcb.port_in_string(&mut port, words, asked)?;
            Ok((<[u8; 4]>::try_from(&*asked).ok(), behind == [0xee; 12]))
        });
        same(&format!("{count:#x}"), result, Some(Ok((Some([1, 2, 3, 4]), true))))?;
    }
    Ok(())
}

/// Exits of L1 when it only opens its channel and then does `more`, which must not leave.
fn refused_without_exit<T: PartialEq + std::fmt::Debug + 'static>(
    bench: &mut Bench<Snp>,
    more: impl for<'y> FnOnce(&mut super::Page<'y>, &mut crate::snp::port::ModelPort<'y>) -> T + 'static,
    want: T,
) -> Check {
    let options = bench.options();
    let (quiet, _) = as_l1(bench, options.clone(), |l1| open_at_l1(l1.cpu).map(drop));
    let (world, result) = as_l1(bench, options, |l1| {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        Ok::<_, SnpError>(more(&mut ghcb, &mut port))
    });
    same("refused", result, Some(Ok(want)))?;
    same("exits", exits_of_l1(&world), exits_of_l1(&quiet))
}

fn private_page(bench: &mut Bench<Snp>) -> Check {
    let at = PhysAddr::new;
    let secret = MONITOR_DATA;
    let private = |address| SnpError::PrivateAddress { at: at(address) };
    let encrypted = 1 << 51 | DEVICE_PAGE;
    refused_without_exit(
        bench,
        move |_, _| {
            let own = |page: x86_64::structures::paging::PhysFrame| page.start_address().as_u64() == secret;
            [
                SharedAddr::try_new(at(secret + 8), 51, own).err(),
                SharedAddr::try_new(at(encrypted), 51, |_| false).err(),
                SharedAddr::try_new(at(DEVICE_PAGE), 51, own).err(),
            ]
        },
        [Some(private(secret + 8)), Some(private(encrypted)), None],
    )?;
    // A guest that is wrong about its page is told by an honest host, and its data stays its own.
    let options = bench.options();
    let (world, result) = as_l1(bench, options, move |l1| {
        let (mut port, mut ghcb) = open_at_l1(l1.cpu)?;
        let wrong = SharedAddr::try_new(at(secret), 51, |_| false)?;
        let mut data = [0xee; 8];
        let read = ghcb.mmio_read(&mut port, wrong, &mut data);
        let write = ghcb.mmio_write(&mut port, wrong, &[0; 8]);
        Ok::<_, SnpError>((read, write, data))
    });
    let refused = Err(SnpError::MalformedRequest { code: 5 });
    same("a private page", result, Some(Ok((refused, refused, [0xee; 8]))))?;
    let kept = world.peek(secret, 8, Some(0));
    same("its contents", kept, Some(crate::world::layout::pattern(secret)[..8].to_vec()))
}

fn lengths(bench: &mut Bench<Snp>) -> Check {
    let bad = |given, element| Err(SnpError::BadLength { given, most: 2032, element });
    let beyond = |address| Err(SnpError::Range(coco_part_api::RangeError::OutsideMap { at: PhysAddr::new(address) }));
    refused_without_exit(
        bench,
        |ghcb, port| {
            let mut data = [0; 4096];
            let dwords = PortAccess::new(LOOPBACK_PORT, PortSize::Dword);
            let at = |offset| SharedAddr::try_new(PhysAddr::new(FREE + offset), 51, |_| false);
            let mut mmio = |offset, bytes: usize| {
                let data = data.get_mut(..bytes).unwrap_or_default();
                at(offset).and_then(|at| ghcb.mmio_read(port, at, data))
            };
            let by_device = [mmio(0, 0), mmio(0, 2033), mmio(0, 4096), mmio(0xfff, 2), mmio(0x811, 2032)];
            let by_port = [0, 2, 2036].map(|bytes: usize| {
                let data = data.get_mut(..bytes).unwrap_or_default();
                ghcb.port_in_string(port, dwords, data)
            });
            let out = ghcb.port_out_string(port, dwords, Segment::Ds, &[0; 6]);
            (by_device, by_port, out)
        },
        (
            [bad(0, 1), bad(2033, 1), bad(4096, 1), beyond(FREE + 0xfff), beyond(FREE + 0x811)],
            [bad(0, 4), bad(2, 4), bad(2036, 4)],
            bad(6, 4),
        ),
    )
}
