//! From the launch VMSA to Rust: 32-bit protected mode without paging to 64-bit mode with the C-bit.
//!
//! Without paging all memory is private. The C-bit's position comes from the CPUID page, which the firmware checked at launch. It
//! is not believed before it is shown to be right, because with a wrong one everything that is meant as private is shared with
//! the host. The proof uses that memory was private so far: two random numbers are written while paging is off and compared after
//! it is on. Only if the C-bit in the page tables is the processor's, the reads reach the encrypted page that the numbers are in.
//! With any other bit they go to memory that the host can provide, but the host has not seen the numbers: they came from the
//! processor, by an instruction that cannot be intercepted, and were never in shared memory. The comparison itself works with
//! registers. Instruction fetches and walks of page tables are private in any case, so the host cannot lead the code astray
//! before it is over; until then nothing reads a stack or a descriptor table through the new page tables.
//!
//! SEV_STATUS cannot be intercepted either: without SNP all of this would prove nothing, so that it is looked at first.
//!
//! The memory behind the image's data was not measured: whatever the host put there is gone before anything reads it.
//!
//! CR3 has 32 bits until the code is 64-bit code. Walks are private without its C-bit; it is loaded again with it.

use core::arch::global_asm;

use backend_snp::abi::cpuid::{CpuidEntry, CpuidPage, MAX_ENTRIES};
use backend_snp::abi::cpuid_leaves::CpuidLeaf;
use backend_snp::abi::ghcb_msr::terminate_request;
use backend_snp::abi::sev_features::{Msr, SevStatus};
use backend_snp::host::reason;
use image_runtime::segment::{CODE, CODE_WORD, DATA, DATA_WORD};
use x86_64::VirtAddr;

use crate::reason::{NO_C_BIT, NO_RANDOM, NOT_SNP, WRONG_C_BIT};
use crate::start::first;

/// Bytes of the stack of the first steps. Later it is the first vCPU's stack for exceptions.
const BOOT_STACK_BYTES: usize = 0x2000;
/// How often the processor is asked for a random number.
const RANDOM_TRIES: u32 = 100;

const SNP: u64 = SevStatus::SEV.bits() | SevStatus::SEV_ES.bits() | SevStatus::SNP_ACTIVE.bits();
const _: () = assert!(SNP == 7, "the bits of SEV_STATUS that are looked at");

/// Value of the GHCB MSR that asks for the end.
const fn request(code: u8) -> u32 {
    // Bits 27:0.
    terminate_request(reason(code)) as u32
}

global_asm!(
    r#"
    .pushsection .boot_bss, "aw", @nobits
    .balign 4096
    boot_root:      .skip 4096
    boot_gibs:      .skip 4096
    boot_pages:     .skip 4096
    boot_stack:     .skip {stack_bytes}
    boot_stack_end:
    .popsection

    .pushsection .bss.boot_numbers, "aw", @nobits
    .balign 8
    boot_numbers:   .skip 8
    .popsection

    .pushsection .rodata.boot, "a"
    .balign 8
    boot_gdt:
        .quad 0
        .quad {code_word}
        .quad {data_word}
    boot_gdt_end:
    boot_gdt_pointer:
        .short boot_gdt_end - boot_gdt - 1
        .long boot_gdt
    .popsection

    .pushsection .boot, "ax"
    .code32
    .global _start
    _start:
        mov ecx, {sev_status}
        rdmsr
        mov ebx, {not_snp}
        and eax, {snp}
        cmp eax, {snp}
        jne boot_fail

        // Where the C-bit is: bits 5:0 of EBX of a leaf of the CPUID page.
        mov ebx, {no_c_bit}
        mov ecx, [{cpuid}]
        test ecx, ecx
        jz boot_fail
        cmp ecx, {most_entries}
        ja boot_fail
        mov esi, {cpuid} + {first_entry}
    2:
        cmp dword ptr [esi + {entry_leaf}], {encryption_leaf}
        je 3f
        add esi, {entry_bytes}
        dec ecx
        jnz 2b
        jmp boot_fail
    3:
        mov eax, [esi + {entry_ebx}]
        and eax, 0x3f
        cmp eax, 32
        jb boot_fail
        cmp eax, 51
        ja boot_fail
        // EBP: the position. EDX: upper half of the C-bit.
        mov ebp, eax
        lea ecx, [eax - 32]
        mov edx, 1
        shl edx, cl

        // Statics that begin as zeros, page tables, stack.
        mov edi, offset image_zeroed
        mov ecx, offset image_end
        sub ecx, edi
        shr ecx, 2
        xor eax, eax
        cld
        rep stosd

        // The first 4 MiB at their own addresses: present, writable, large, private.
        mov dword ptr [boot_root], offset boot_gibs + 3
        mov dword ptr [boot_root + 4], edx
        mov dword ptr [boot_gibs], offset boot_pages + 3
        mov dword ptr [boot_gibs + 4], edx
        mov dword ptr [boot_pages], 0x83
        mov dword ptr [boot_pages + 4], edx
        mov dword ptr [boot_pages + 8], 0x200083
        mov dword ptr [boot_pages + 12], edx

        // ESI and EDI: two random numbers, in private memory as well.
        mov ecx, {random_tries}
        mov ebx, {no_random}
    4:
        rdrand esi
        jc 5f
        dec ecx
        jnz 4b
        jmp boot_fail
    5:
        rdrand edi
        jc 6f
        dec ecx
        jnz 5b
        jmp boot_fail
    6:
        mov [boot_numbers], esi
        mov [boot_numbers + 4], edi

        lgdt [boot_gdt_pointer]
        mov eax, cr4
        or eax, 1 << 5
        mov cr4, eax
        mov eax, offset boot_root
        mov cr3, eax
        // EFER: LME and NXE.
        mov ecx, 0xc0000080
        rdmsr
        or eax, 1 << 8 | 1 << 11
        wrmsr
        // PG, WP.
        mov eax, cr0
        or eax, 1 << 31 | 1 << 16
        mov cr0, eax

        // Paging is on, and the code is still 32-bit code.
        mov ebx, {wrong_c_bit}
        cmp [boot_numbers], esi
        jne boot_fail
        cmp [boot_numbers + 4], edi
        jne boot_fail
        mov dword ptr [boot_numbers], 0
        mov dword ptr [boot_numbers + 4], 0
        // A far jump by number.
        .byte 0xea
        .long boot_long
        .short {code}

    // EBX: what the host is asked for.
    boot_fail:
        mov ecx, {ghcb}
        mov eax, ebx
        xor edx, edx
        wrmsr
        rep vmmcall
        hlt
        jmp boot_fail

    .code64
    boot_long:
        mov eax, {data}
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov fs, eax
        mov gs, eax
        mov edi, ebp
        lea rax, [rip + boot_root]
        bts rax, rdi
        mov cr3, rax
        lea rsp, [rip + boot_stack_end]
        xor ebp, ebp
        push 0
        jmp {first}
    .popsection
    "#,
    stack_bytes = const BOOT_STACK_BYTES,
    code_word = const CODE_WORD,
    data_word = const DATA_WORD,
    sev_status = const Msr::SEV_STATUS.0,
    snp = const SNP,
    cpuid = const image_layout::CPUID,
    most_entries = const MAX_ENTRIES,
    first_entry = const core::mem::offset_of!(CpuidPage, entries),
    entry_bytes = const size_of::<CpuidEntry>(),
    entry_leaf = const core::mem::offset_of!(CpuidEntry, eax_in),
    entry_ebx = const core::mem::offset_of!(CpuidEntry, ebx),
    encryption_leaf = const CpuidLeaf::ENCRYPTION.0,
    random_tries = const RANDOM_TRIES,
    ghcb = const Msr::GHCB.0,
    not_snp = const request(NOT_SNP),
    no_c_bit = const request(NO_C_BIT),
    no_random = const request(NO_RANDOM),
    wrong_c_bit = const request(WRONG_C_BIT),
    code = const CODE,
    data = const DATA,
    first = sym first,
);

unsafe extern "C" {
    static boot_stack_end: u8;
}

/// The end of the stack of the first steps.
pub(crate) fn boot_stack() -> VirtAddr {
    VirtAddr::from_ptr(&raw const boot_stack_end)
}
