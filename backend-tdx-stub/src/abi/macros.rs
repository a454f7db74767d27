//! The shapes that codes and layouts share.

/// Declares an integer newtype with named values. Values without a name are kept and printed in hex.
macro_rules! codes {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($repr:ty) {
            $($(#[$code_meta:meta])* $CODE:ident = $value:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $Name(
            /// The raw value.
            pub $repr,
        );

        impl $Name {
            $($(#[$code_meta])* pub const $CODE: Self = Self($value);)*

            /// All values that have a name, with the name.
            pub const KNOWN: &'static [(&'static str, Self)] = &[$((stringify!($CODE), Self::$CODE)),*];
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match Self::KNOWN.iter().find(|(_, known)| known == self) {
                    Some((name, _)) => f.write_str(name),
                    None => write!(f, concat!(stringify!($Name), "({:#x})"), self.0),
                }
            }
        }

        impl core::fmt::LowerHex for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

/// Asserts size and offset of every field of a `repr(C)` structure at compile time, one assert per field, and lists the
/// fields for the tests.
macro_rules! layout {
    ($Type:ident: $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = assert!(size_of::<$Type>() == $size, "size");
        $(const _: () = assert!(core::mem::offset_of!($Type, $field) == $offset, stringify!($field));)*

        impl $Type {
            /// Names and byte offsets of the fields.
            pub const OFFSETS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($Type, $field))),*];
        }
    };
}
