# Exceptions of our own code end the run; interrupts are acknowledged and have no other effect than that a guest was left.

.section .text.idt, "ax", @progbits
.code64
.altmacro
.macro exception number
exception_\number:
    push \number
    jmp exception_any
.endm
.set i, 0
.rept 32
    exception %i
    .set i, i+1
.endr
.noaltmacro

exception_any:
    mov rdi, rsp
    and rsp, -16
    call host_exception
    ud2

interrupt_any:
    push rax
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

.section .rodata.idt, "a", @progbits
.balign 8
.global handlers
handlers:
.altmacro
.macro handler number
    .quad exception_\number
.endm
.set i, 0
.rept 32
    handler %i
    .set i, i+1
.endr
.noaltmacro
    .quad interrupt_any
