//! Links the hypervisor at a fixed address.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rustc-link-arg-bins=-T{here}/link.ld");
    // The last one counts; the target's own choice is a relocatable file.
    println!("cargo:rustc-link-arg-bins=--no-pie");
}
