# From QEMU's PVH entry (32-bit protected mode, no paging, EBX = start info) to 64-bit mode with five levels of page tables:
# only so does a nested walk have the index that the C-bit, bit 51, selects. Secondary processors come by SIPI to a copy of
# `secondary` at 0x8000.

.section .text.start, "ax", @progbits
.code32
.global start
start:
    cld
    mov edi, ebx
    # The first 4 GiB, by 2 MiB pages.
    mov ecx, 2048
    mov eax, 0x83
    mov edx, offset directories
fill:
    mov [edx], eax
    mov dword ptr [edx + 4], 0
    add edx, 8
    add eax, 0x200000
    loop fill
    mov esp, offset boot_stack_top
    jmp enter_long

# EDI: argument, ESP: stack.
enter_long:
    mov eax, cr4
    or eax, 0x41620         # PAE, OSFXSR, OSXMMEXCPT, LA57, OSXSAVE
    mov cr4, eax
    mov eax, offset level5
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x1901          # SCE, LME, NXE, SVME
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff     # caches on
    or eax, 0x80010023      # PE, MP, NE, WP, PG
    mov cr0, eax
    lgdt [descriptor]
    push 8
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    fninit
    mov edi, edi
    xor ebp, ebp
    and rsp, -16
    call main
    ud2

# Copied to 0x8000; real mode, CS = 0x800. What it names lies at fixed offsets: the assembler computes no difference of symbols.
.code16
.global secondary
secondary:
    cli
    xor ax, ax
    mov ds, ax
    mov ebx, 0x8080
    lgdtd [ebx]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmp 0x10, 0x8040
.code32
.org secondary + 0x40
protected:
    mov ax, 0x18
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov edi, 1
    # One processor at a time comes this way; it takes the stack that was left for it.
    mov esp, [secondary_stack]
    mov eax, offset enter_long
    jmp eax
.org secondary + 0x80
low_descriptor:
    .word gdt_end - gdt - 1
    .long gdt
.global secondary_end
secondary_end:

.section .data.start, "aw", @progbits
.balign 16
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 08: 64-bit code
    .quad 0x00cf9a000000ffff    # 10: 32-bit code
    .quad 0x00cf92000000ffff    # 18: data
gdt_end:
descriptor:
    .word gdt_end - gdt - 1
    .quad gdt
.global secondary_stack
.balign 8
secondary_stack:
    .quad 0
.balign 0x1000
level5:
    .quad level4 + 3
    .fill 511, 8, 0
level4:
    .quad level3 + 3
    .fill 511, 8, 0
level3:
    .quad directories + 3
    .quad directories + 0x1003
    .quad directories + 0x2003
    .quad directories + 0x3003
    .fill 508, 8, 0

.section .bss.start, "aw", @nobits
.balign 0x1000
directories:
    .skip 0x4000
boot_stack:
    .skip 0x40000
boot_stack_top:
