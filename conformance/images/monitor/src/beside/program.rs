//! The program of a companion: position-independent, copied into a page of its own.
//!
//! It begins with RDI: its data page, RSI: its level, RDX: the task page. It has no stack and takes no exception: one is a
//! triple fault, which ends the boot. XCR0 differs by level: level 1 has SSE, level 3 AVX too.
//!
//! In each round all registers but RDI and RSI get values made of level and round, word `n` of them `n << 48` more: the five of
//! a call (words 0 to 4), the other general ones (5 to 12), and the SSE or AVX ones (16 to 31). What must come back as it was
//! is compared with memory that L1 and the companion alone write.

use core::arch::global_asm;

use backend_snp::abi::ghcb_msr::run_vmpl_request;
use backend_snp::abi::sev_features::Msr;
use backend_snp::abi::vmpl::Vmpl;
use coco_part_api::GuestLevel;
use image_companions::{data, task, wrong};

/// Words of its own in the data page: where the task page is, the tag of this round, XCR0, the five registers of the answer.
const TASK_PAGE: u64 = data::OWN;
const TAG: u64 = data::OWN + 0x08;
const XCR0: u64 = data::OWN + 0x10;
const ANSWER: u64 = data::OWN + 0x18;
/// Sixteen words: what vector registers hold. And 32 bytes for each of them: what they held after the call.
const VALUES: u64 = 0x100;
const STORED: u64 = 0x200;

/// XCR0: x87 and SSE; x87, SSE and AVX.
const SSE: u32 = 3;
const AVX: u32 = 7;

global_asm!(
    r#"
    .pushsection .rodata.companion, "a"
    .balign 16
    companion_program:
        mov [rdi + {level}], rsi
        mov [rdi + {task_page}], rdx
        mov eax, {sse}
        cmp esi, {with_avx}
        jne 2f
        mov eax, {avx}
    2:
        mov [rdi + {xcr0}], rax
        xor ecx, ecx
        xor edx, edx
        xsetbv

    companion_round:
        mov rax, [rdi + {round}]
        inc rax
        mov [rdi + {round}], rax
        mov rbp, rsi
        shl rbp, 32
        mov eax, eax
        or rbp, rax
        mov [rdi + {tag}], rbp

        xor ecx, ecx
    2:
        lea rax, [rcx + 16]
        shl rax, 48
        add rax, rbp
        mov [rdi + rcx * 8 + {values}], rax
        inc ecx
        cmp ecx, 16
        jb 2b
        cmp esi, {with_avx}
        je 3f
        .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
            movddup xmm\number, [rdi + {values} + \number * 8]
        .endr
        jmp 4f
    3:
        .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
            vbroadcastsd ymm\number, [rdi + {values} + \number * 8]
        .endr
    4:
        mov ecx, {ghcb}
        mov eax, {run_l1}
        xor edx, edx
        wrmsr
        mov r15, 1 << 48
        lea rcx, [rbp + r15]
        lea rdx, [rcx + r15]
        lea r8, [rdx + r15]
        lea r9, [r8 + r15]
        lea rbx, [r9 + r15]
        lea r10, [rbx + r15]
        lea r11, [r10 + r15]
        lea r12, [r11 + r15]
        lea r13, [r12 + r15]
        lea r14, [r13 + r15]
        lea rsp, [r14 + r15]
        lea r15, [rsp + r15]
        mov rax, rbp
        mov byte ptr [rdi], 1
        rep vmmcall

        mov [rdi + {answer}], rax
        mov [rdi + {answer} + 8], rcx
        mov [rdi + {answer} + 16], rdx
        mov [rdi + {answer} + 24], r8
        mov [rdi + {answer} + 32], r9

        // R8 is the word that comes next, R9 the code of what is wrong.
        mov r9d, {wrong_register}
        mov rdx, 1 << 48
        mov r8, [rdi + {tag}]
        cmp rbp, r8
        jne companion_wrong
        cmp rsi, [rdi + {level}]
        jne companion_wrong
        lea r8, [r8 + rdx * 4]
        .irp register, rbx, r10, r11, r12, r13, r14, rsp, r15
            add r8, rdx
            cmp \register, r8
            jne companion_wrong
        .endr

        mov r9d, {wrong_xcr0}
        xor ecx, ecx
        xgetbv
        shl rdx, 32
        or rax, rdx
        cmp rax, [rdi + {xcr0}]
        jne companion_wrong

        // R10: words of a vector register.
        mov r9d, {wrong_vector}
        cmp esi, {with_avx}
        je 2f
        .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
            movdqu [rdi + {stored} + \number * 32], xmm\number
        .endr
        mov r10d, 2
        jmp 3f
    2:
        .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
            vmovdqu [rdi + {stored} + \number * 32], ymm\number
        .endr
        mov r10d, 4
    3:
        xor ecx, ecx
    4:
        mov rax, [rdi + rcx * 8 + {values}]
        mov edx, ecx
        shl edx, 5
        add rdx, rdi
        xor ebx, ebx
    5:
        cmp rax, [rdx + rbx * 8 + {stored}]
        jne companion_wrong
        inc ebx
        cmp ebx, r10d
        jb 5b
        inc ecx
        cmp ecx, 16
        jb 4b

        // Who takes the mark away serves the call. Without an answer there is none to look at.
        xor eax, eax
        xchg [rdi], al
        test al, al
        jnz companion_lost
        mov r9d, {wrong_answer}
        mov rdx, 1 << 48
        mov r8, rbp
        xor ecx, ecx
    2:
        mov rax, r8
        not rax
        cmp rax, [rdi + rcx * 8 + {answer}]
        jne companion_wrong
        add r8, rdx
        inc ecx
        cmp ecx, 5
        jb 2b
        inc qword ptr [rdi + {served}]
        jmp companion_task
    companion_lost:
        inc qword ptr [rdi + {lost}]

    companion_task:
        mov r8, [rdi + {task_page}]
        mov r9, [r8 + {task_number}]
        cmp r9, [rdi + {done}]
        je companion_round
        cmp rsi, [r8 + {task_level}]
        jne companion_round
        mov rax, [r8 + {task_at}]
        mov rdx, [r8 + {task_operand}]
        mov rcx, [r8 + {task_kind}]
        cmp rcx, {task_store}
        je 2f
        cmp rcx, {task_adjust}
        je 3f
        mov rax, [rax]
        jmp 4f
    2:
        mov [rax], rdx
        xor eax, eax
        jmp 4f
    3:
        xor ecx, ecx
        rmpadjust
        mov eax, eax
    4:
        mov [rdi + {result}], rax
        mov [rdi + {done}], r9
        jmp companion_round

    companion_wrong:
        mov [rdi + {wrong}], r9
        jmp companion_round
    companion_program_end:
    .popsection
    "#,
    sse = const SSE,
    avx = const AVX,
    with_avx = const GuestLevel::THREE.number(),
    level = const data::LEVEL,
    round = const data::ROUND,
    served = const data::SERVED,
    lost = const data::LOST,
    wrong = const data::WRONG,
    done = const data::DONE,
    result = const data::RESULT,
    task_page = const TASK_PAGE,
    tag = const TAG,
    xcr0 = const XCR0,
    answer = const ANSWER,
    values = const VALUES,
    stored = const STORED,
    ghcb = const Msr::GHCB.0,
    // Bits 31:0; the level, in the upper half, is 0.
    run_l1 = const run_vmpl_request(Vmpl::VMPL0) as u32,
    wrong_register = const wrong::REGISTER,
    wrong_xcr0 = const wrong::XCR0,
    wrong_vector = const wrong::VECTOR,
    wrong_answer = const wrong::ANSWER,
    task_number = const task::NUMBER,
    task_level = const task::LEVEL,
    task_kind = const task::KIND,
    task_at = const task::AT,
    task_operand = const task::OPERAND,
    task_store = const task::STORE,
    task_adjust = const task::ADJUST,
);

unsafe extern "C" {
    static companion_program: u8;
    static companion_program_end: u8;
}

/// Its bytes, less than a page.
pub(crate) fn bytes() -> &'static [u8] {
    let (first, end) = (&raw const companion_program, &raw const companion_program_end);
    // SAFETY: both name the program above, in that order, and it is constant.
    unsafe { core::slice::from_raw_parts(first, end.addr() - first.addr()) }
}
