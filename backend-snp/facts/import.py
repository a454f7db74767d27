#!/usr/bin/env python3
"""Copies SNP fact sheets into this folder, keeping what describes the ABI.

Usage: import.py SOURCE_FOLDER

SOURCE_FOLDER holds one CSV file per table, with a header row. From each table this script drops

- the `source` column,
- every parenthesis and every clause (text between semicolons) that speaks of a software project by name,
- every row whose key names a project, every remark row of which no text is left, and every numbered rule that lost a
  clause.

Nothing is reworded. Run it by hand and read the difference before committing it.
"""

import csv
import pathlib
import re
import sys

# Software projects, tools and third-party texts. The vendor's own names are not among them.
PROJECT = re.compile(
    r"linux|edk2|ovmf|coconut|kvm|qemu|\boak\b|openvmm|openhcl|mushroom|enarx|verismo|\bxen\b|virtee|go-sev"
    r"|snp-measure|igvm|msvc|microsoft|hyper-v|\bec2\b|-zh\b|the notes|readme|formal model|the sources"
    r"|other sources|other headers|measurement tools|reference code|older layouts|elsewhere",
    re.IGNORECASE,
)

# Columns whose text explains a row. All others identify it or carry its number.
PROSE = {
    "meaning",
    "guest_note",
    "snp_ap_init_value",
    "rule",
    "exitinfo1_or_meaning",
    "exitinfo2",
    "other_inputs",
    "outputs",
    "value",
}

# Kinds of rows that are nothing but their text.
REMARKS = {"rule", "call_rule", "preset", "terminate", "fw_error", "cert_table"}

# Kinds of rows that hold what software made up, not what the machine does.
SOFTWARE = {"software_code"}

# A semicolon outside of parentheses ends a clause.
CLAUSE_END = re.compile(r"; (?![^()]*\))")


def without_projects(text):
    """Drops the parts of `text` that name a project."""
    if not PROJECT.search(text):
        return text
    text = re.sub(r"\s*\(([^()]*)\)", lambda m: "" if PROJECT.search(m.group(1)) else m.group(0), text)
    return "; ".join(part for part in CLAUSE_END.split(text) if not PROJECT.search(part)).strip()


def clean(columns, row):
    """Returns the row as it is kept, or None if it has to go."""
    kept = []
    emptied = False
    cut = False
    for column, cell in zip(columns, row, strict=True):
        if column == "source":
            continue
        cell = cell.strip()
        left = without_projects(cell)
        if left != cell and column not in PROSE:
            left = re.sub(r"\s*\(([^()]*)\)", "", cell)
            if PROJECT.search(left):
                return None
        emptied |= cell != "" and left == ""
        cut |= len(CLAUSE_END.split(left)) < len(CLAUSE_END.split(cell))
        kept.append(left)
    names = [column for column in columns if column != "source"]
    kinds = set(kept[:2])
    if kinds & SOFTWARE or ("rule" in names and (emptied or cut)) or (kinds & REMARKS and emptied):
        return None
    return kept


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).resolve().parent
    tables = sorted(source.glob("*.csv"))
    if not tables:
        sys.exit(f"no tables in {source}")
    for table in tables:
        with table.open(encoding="ascii", newline="") as file:
            columns, *rows = csv.reader(file)
        kept = [row for row in (clean(columns, row) for row in rows) if row is not None]
        with (target / table.name).open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([column for column in columns if column != "source"])
            writer.writerows(kept)
        print(f"{table.name}: {len(kept)} of {len(rows)} rows")


if __name__ == "__main__":
    main()
