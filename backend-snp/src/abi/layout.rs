//! What the layout types tell about themselves, so that tests can compare them with a table.

/// One field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in Rust; a reserved field is called `_reserved_0x` and its offset.
    pub name: &'static str,
    /// Offset from the start of the structure in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// A structure whose bytes are all named.
pub trait Layout: Sized {
    /// All fields in ascending order, without holes.
    const FIELDS: &'static [Field];
}

/// One field inside a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Name in Rust.
    pub name: &'static str,
    /// Highest bit.
    pub high: u32,
    /// Lowest bit.
    pub low: u32,
}

/// A number made of fields.
pub trait BitLayout: Sized {
    /// All named fields.
    const FIELDS: &'static [BitField];
}

/// Size of the field that `_field` reaches, in bytes.
pub(crate) const fn field_size<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Says whether `fields` covers `size` bytes in order and without holes.
pub(crate) const fn covers(fields: &[Field], size: usize) -> bool {
    let mut next = 0;
    let mut index = 0;
    while index < fields.len() {
        if fields[index].offset != next {
            return false;
        }
        next += fields[index].size;
        index += 1;
    }
    next == size
}
