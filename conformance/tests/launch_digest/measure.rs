//! `cargo conformance measure` as a user sees it.

use std::process::Command;

use crate::expect_one_digest;
use crate::files::{file, files};

#[test]
fn measure_prints_digest_and_pages_and_says_in_one_sentence_what_is_wrong() {
    let folder = std::env::temp_dir().join(format!("coco-part-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for files");
    let measure = |name: &str, bytes: Option<&[u8]>| {
        let path = folder.join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).expect("the file is written");
        }
        let program = Command::new(env!("CARGO_BIN_EXE_conformance")).arg("measure").arg(&path).output();
        let output = program.expect("the program runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (what, directives) = files().remove(4);
    let good = file(directives);
    let digest = expect_one_digest(what, &good);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (status, out, errors) = measure("good.igvm", Some(&good));
    let want = format!(
        "launch digest: {hex}\npolicy: 0x30000\npages of type normal: 1\npages of type vmsa: 0\npages of type zero: 0\n\
         pages of type unmeasured: 1\npages of type secrets: 1\npages of type cpuid: 1\nID block: none\n"
    );
    assert_eq!((status, out.as_str(), errors.as_str()), (Some(0), want.as_str(), ""));

    let mut broken = good.clone();
    broken[30] ^= 1;
    for (name, bytes, reason) in [
        ("empty.igvm", Some(&[][..]), "file of 0x0 bytes ends inside its fixed header"),
        ("text.igvm", Some(&b"this is no such file at all"[..]), "not an IGVM file: it begins with 0x73696874"),
        ("short.igvm", Some(&good[..good.len() - 1]), "file says that it has"),
        ("broken.igvm", Some(&broken), "checksum "),
        ("missing.igvm", None, "No such file"),
    ] {
        let (status, out, errors) = measure(name, bytes);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{name}");
        assert!(errors.starts_with("conformance: ") && errors.contains(reason), "{name}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{name}: {errors}");
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
