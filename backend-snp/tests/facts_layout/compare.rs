//! Compares rows with Rust types, and notices what no row describes.

use std::collections::BTreeSet;

use backend_snp::abi::layout::{BitField, BitLayout, Field, Layout};

use crate::table::{bits, plain};

/// Compares field rows with a Rust type, and notices Rust fields that no row describes.
pub(crate) struct Fields {
    type_name: &'static str,
    fields: &'static [Field],
    seen: BTreeSet<usize>,
}

impl Fields {
    /// Starts the comparison with `T`.
    pub(crate) fn of<T: Layout>() -> Self {
        Self { type_name: core::any::type_name::<T>(), fields: T::FIELDS, seen: BTreeSet::new() }
    }

    /// Compares one field. A name that starts with `reserved`, or holds it after a prefix, stands for the reserved field
    /// at that offset.
    pub(crate) fn check(&mut self, name: &str, offset: u64, size: u64) -> Result<(), String> {
        let is_reserved = name.contains("reserved") || name == "padding";
        let found = self.fields.iter().find(|field| match field.name.strip_prefix("_reserved_0x") {
            Some(hex) => is_reserved && u64::from_str_radix(hex, 16) == Ok(offset),
            None => field.name == name,
        });
        let field = found.ok_or_else(|| format!("{} has no {name}", self.type_name))?;
        if (field.offset as u64, field.size as u64) != (offset, size) {
            return Err(format!("{field:x?}, the table says {offset:#x}, size {size:#x}"));
        }
        self.seen.insert(field.offset);
        Ok(())
    }

    /// Asserts that every field of the type was compared.
    pub(crate) fn finish(self) {
        let missing: Vec<_> = self.fields.iter().filter(|field| !self.seen.contains(&field.offset)).collect();
        assert!(missing.is_empty(), "{}: no row for {missing:x?}", self.type_name);
    }
}

/// Compares rows about bits with a Rust type, and notices bits that no row describes.
pub(crate) struct Bits {
    type_name: &'static str,
    fields: Vec<BitField>,
    seen: BTreeSet<u32>,
}

impl Bits {
    /// Starts the comparison with a number made of fields.
    pub(crate) fn of<T: BitLayout>() -> Self {
        Self { type_name: core::any::type_name::<T>(), fields: T::FIELDS.to_vec(), seen: BTreeSet::new() }
    }

    /// Starts the comparison with a set of single bits.
    pub(crate) fn of_flags<T: bitflags::Flags<Bits: Into<u64>>>() -> Self {
        let fields = T::FLAGS.iter().map(|flag| {
            let bits: u64 = flag.value().bits().into();
            assert!(bits.is_power_of_two(), "{} is not one bit", flag.name());
            BitField { name: flag.name(), high: bits.trailing_zeros(), low: bits.trailing_zeros() }
        });
        Self { type_name: core::any::type_name::<T>(), fields: fields.collect(), seen: BTreeSet::new() }
    }

    /// Compares one field by its plain name.
    pub(crate) fn check(&mut self, name: &str, at: &str) -> Result<(), String> {
        let (high, low) = bits(at).ok_or_else(|| format!("no bits in {at}"))?;
        let found = self.fields.iter().find(|field| plain(field.name) == plain(name));
        let field = found.ok_or_else(|| format!("{} has no {name}", self.type_name))?;
        if (field.high, field.low) != (high, low) {
            return Err(format!("{field:?}, the table says {high}:{low}"));
        }
        self.seen.insert(low);
        Ok(())
    }

    /// Checks that no field reaches into reserved bits, and that a field ends right below them.
    pub(crate) fn check_reserved(&mut self, at: &str) -> Result<(), String> {
        let (high, low) = bits(at).ok_or_else(|| format!("no bits in {at}"))?;
        match self.fields.iter().find(|field| field.high >= low && field.low <= high) {
            Some(field) => Err(format!("{field:?} is in the reserved bits {high}:{low}")),
            None if high < 64 && self.fields.iter().any(|field| field.high + 1 == low) => Ok(()),
            None => Err(format!("no field ends below the reserved bits {high}:{low}")),
        }
    }

    /// Asserts that every field of the type was compared.
    pub(crate) fn finish(self) {
        let missing: Vec<_> = self.fields.iter().filter(|field| !self.seen.contains(&field.low)).collect();
        assert!(missing.is_empty(), "{}: no row for {missing:?}", self.type_name);
    }
}

/// Compares rows about codes with the named values of a Rust type, and notices names that no row describes.
pub(crate) struct Codes {
    type_name: &'static str,
    known: Vec<(&'static str, u64)>,
    seen: BTreeSet<&'static str>,
}

impl Codes {
    /// Starts the comparison. `value` gives the raw number.
    pub(crate) fn of<T: Copy>(known: &[(&'static str, T)], value: impl Fn(T) -> u64) -> Self {
        let known = known.iter().map(|(name, code)| (*name, value(*code))).collect();
        Self { type_name: core::any::type_name::<T>(), known, seen: BTreeSet::new() }
    }

    /// Compares one code by its plain name.
    pub(crate) fn check(&mut self, name: &str, value: u64) -> Result<(), String> {
        let found = self.known.iter().find(|(known, _)| plain(known) == plain(name));
        let (known, number) = found.ok_or_else(|| format!("{} has no {name}", self.type_name))?;
        if *number != value {
            return Err(format!("{known} is {number:#x}, the table says {value:#x}"));
        }
        self.seen.insert(known);
        Ok(())
    }

    /// Asserts that every named value was compared.
    pub(crate) fn finish(self) {
        let missing: Vec<_> = self.known.iter().filter(|(name, _)| !self.seen.contains(name)).collect();
        assert!(missing.is_empty(), "{}: no row for {missing:x?}", self.type_name);
    }
}
