//! Links the image to the address at which it runs.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../image.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--defsym=IMAGE_BASE={:#x}", image_layout::GUEST);
    println!("cargo:rustc-link-arg-bins=--no-pie");
}
