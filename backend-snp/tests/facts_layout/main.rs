//! Compares `abi` with the fact tables in `facts/`, row by row and in both directions: a row that no Rust item matches
//! fails unless it is listed as informative with a reason, and a Rust field or code that no row describes fails too.

mod codes;
mod compare;
mod cpuid_leaves;
mod ghcb_msr;
mod instructions;
mod launch;
mod layouts;
mod start_values;
mod svsm;
mod table;

#[test]
fn every_table_parses_and_says_how_sure_it_is() {
    let names = table::all();
    assert_eq!(names.len(), 18, "{names:?}");
    for name in names {
        table::table(&name);
    }
}
