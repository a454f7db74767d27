#!/usr/bin/env python3
"""Copies TDX fact sheets into this folder, keeping what describes the ABI.

Usage: import.py SOURCE_FOLDER

SOURCE_FOLDER holds one CSV file per table, with a header row. Of each table in TABLES this script keeps the columns named
there, and of their texts every clause (text between semicolons) and every parenthesis that does not speak of a software
project by name. A row whose first two columns name one, and a row whose explanation is gone, is dropped.

Nothing is reworded. Run it by hand and read the difference before committing it.
"""

import csv
import pathlib
import re
import sys

# The columns to keep. The first two identify a row.
TABLES = {
    "tdcall_leaves": ["leaf", "name", "inputs", "outputs", "available_when", "errors_of_note"],
    "completion_status": ["value", "name", "class", "class_name", "kind", "recoverable", "seen_by", "note"],
    "page_attr": ["group", "item", "bits_or_value", "meaning"],
    "page_accept": ["group", "item", "value", "meaning"],
    "l2_vp_enter": ["group", "item", "location", "width_or_bits", "meaning"],
    "metadata_fields": [
        "group",
        "scope",
        "field_code_hex",
        "field_id_hex",
        "name",
        "width_bits",
        "count",
        "l1_read_mask",
        "l1_write_mask",
        "meaning",
    ],
    "tdreport": ["structure", "field", "offset_in_report", "offset_in_struct", "size", "meaning"],
    "ve_info": ["group", "item", "location", "meaning"],
    "vmcall": ["subfunction", "name", "inputs", "outputs", "status_codes"],
    "vmx_exit_reasons": ["basic_reason", "name", "routed_to", "delivered_to_L1", "condition", "what_L1_must_do"],
    "td_semantics": ["id", "topic", "actor", "rule"],
}

# Software projects and third-party texts. The vendor's own names are not among them.
PROJECT = re.compile(
    r"linux|openvmm|openhcl|ohcl|underhill|td-shim|\bsvsm\b|\bkvm\b|qemu|edk2|hyper-v|microsoft|implementations",
    re.IGNORECASE,
)

# Rows about the sheets themselves.
ABOUT = {"discrepancy", "usage"}

# A semicolon outside of parentheses ends a clause.
CLAUSE_END = re.compile(r"; (?![^()]*\))")


def without_projects(text):
    """Drops the parts of `text` that name a project."""
    if not PROJECT.search(text):
        return text
    text = re.sub(r"\s*\(([^()]*)\)", lambda m: "" if PROJECT.search(m.group(1)) else m.group(0), text)
    return "; ".join(part for part in CLAUSE_END.split(text) if not PROJECT.search(part)).strip()


def clean(row, columns):
    """Returns the row as it is kept, or None if it has to go."""
    cells = [row[column].strip() for column in columns]
    if cells[0] in ABOUT or any(PROJECT.search(cell) for cell in cells[:2]):
        return None
    kept = cells[:2] + [without_projects(cell) for cell in cells[2:]]
    return None if cells[-1] and not kept[-1] else kept


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).resolve().parent
    for table, columns in TABLES.items():
        with (source / f"{table}.csv").open(encoding="ascii", newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in (clean(row, columns) for row in rows) if row is not None]
        with (target / f"{table}.csv").open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(kept)
        print(f"{table}: {len(kept)} of {len(rows)} rows")


if __name__ == "__main__":
    main()
