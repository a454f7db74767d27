//! Leaves, completion status, sub-functions of TDVMCALL, rules.

use super::*;
use crate::tdx::RULES;
use crate::tdx::status::{self, OPERAND_INVALID, operand, vmcall};

#[test]
fn leaves_are_those_of_the_table_and_no_others_are_taken() {
    let mut known = leaf::LISTED.to_vec();
    let (with, without) = (machine(), machine_with(|config| config.partitioning = false));
    let refuses = |m: &Machine, leaf: u64| {
        let refused = Answer::Regs(Regs { rax: OPERAND_INVALID | operand::RAX, ..NONE });
        m.clone().step(CPU0, Op::Tdcall(Regs { rax: leaf, ..NONE })) == Outcome::Done(refused)
    };
    for row in table!("tdcall_leaves") {
        let Some(leaf) = number(row.get("leaf")) else {
            let rule = row.get("inputs");
            assert_eq!((row.get("leaf"), rule), ("-", "RAX[15:0]=leaf; RAX[23:16]=version; RAX[63:24]=0"));
            continue;
        };
        let name = row.get("name").strip_prefix("TDG.").expect("a leaf of the guest").replace('.', "_");
        let modelled = take(&mut known, &name);
        assert!(modelled.is_none_or(|value| value == leaf), "{name}");
        assert_eq!(refuses(&with, leaf), modelled.is_none(), "{name}");
        let partitioning = row.get("available_when").contains("TD_PARTITIONING");
        assert_eq!(refuses(&without, leaf), modelled.is_none() || partitioning, "{name}");
    }
    finish(&known);
}

#[test]
fn status_values_are_those_of_the_table() {
    let mut values = status::LISTED.to_vec();
    let mut operands = operand::LISTED.to_vec();
    for row in table!("completion_status") {
        let (value, name) = (row.get("value"), row.get("name"));
        if let Some(bits) = value.strip_prefix("bits ").or(value.strip_prefix("bit ")) {
            let used = status::LISTED.iter().filter(|(_, status)| bits_of(*status, bits) != 0).count();
            // The machine gives no fatal status and no hint for the host; details are added by leaves.
            let expected = matches!(name, "DETAILS_L1" | "CLASS" | "NON_RECOVERABLE" | "ERROR");
            assert_eq!(used > 0, expected, "{name}");
        } else if let Some(id) = value.strip_prefix("id ") {
            if let Some(known) = take(&mut operands, name.strip_prefix("OPERAND_ID_").expect("an operand")) {
                assert_eq!(Some(known), number(id), "{name}");
            }
        } else if let Some(known) = take(&mut values, name) {
            assert_eq!(known, row.number("value"), "{name}");
            assert_eq!(known >> 40 & 0xff, row.number("class"), "{name}");
            assert_eq!(known >> 63 == 1, row.get("kind") == "error", "{name}");
            assert!(row.get("seen_by").starts_with("guest"), "{name}");
        }
    }
    finish(&values);
    finish(&operands);
}

#[test]
fn sub_functions_and_their_status_are_those_of_the_table() {
    let mut known = vmcall::LISTED.to_vec();
    for row in table!("vmcall") {
        let name = match row.get("name") {
            "common" => {
                for (value, name) in row.get("status_codes").split("; ").filter_map(|code| code.split_once(' ')) {
                    if let Some(known) = take(&mut known, name) {
                        assert_eq!(Some(known), number(value), "{name}");
                    }
                }
                continue;
            }
            "#VE.RequestMMIO" => "MMIO",
            "GetTdVmCallInfo" => "INFO",
            "MapGPA" => "MAP_GPA",
            "GetQuote" => "GET_QUOTE",
            "ReportFatalError" => "FATAL_ERROR",
            name => name.strip_prefix("Instruction.").unwrap_or(name),
        };
        match (take(&mut known, name), number(row.get("subfunction"))) {
            (Some(value), sub_function) => assert_eq!(Some(value), sub_function, "{name}"),
            (None, Some(sub_function)) => {
                // What this host does not have it says so.
                let answer = host_call(&mut machine(), sub_function, 0, 0);
                assert_eq!(answer.r10, vmcall::SUBFUNC_UNSUPPORTED, "{name}");
            }
            (None, None) => assert_eq!(row.get("subfunction"), "-", "{name}"),
        }
    }
    finish(&known);
}

#[test]
fn rules_have_ids_of_the_table_or_names_of_their_own() {
    let ids: Vec<_> = table!("td_semantics").iter().map(|row| alloc::string::String::from(row.get("id"))).collect();
    for (rule, _) in RULES.iter().filter(|(rule, _)| rule.starts_with("TDX-")) {
        assert!(ids.iter().any(|id| id == rule), "{rule}");
    }
}
