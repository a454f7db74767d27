# By this note QEMU knows an ELF file as a kernel, and where it begins.
.section .note.pvh, "a", @note
    .long 4, 4, 18          # name and descriptor have 4 bytes; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start
