#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    conformance::fuzz::run("page_state_answer", data);
});
