//! The shapes that layouts and codes share.

/// Asserts size and every offset of a `repr(C)` structure at compile time and lists its fields.
///
/// A field that is forgotten leaves a hole, which is a compile error too.
macro_rules! layout {
    ($Type:ident: $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = assert!(size_of::<$Type>() == $size, "size");
        $(
            const _: () = assert!(core::mem::offset_of!($Type, $field) == $offset, stringify!($field));
        )*
        const _: () = assert!(
            $crate::abi::layout::covers(<$Type as $crate::abi::layout::Layout>::FIELDS, $size),
            "every byte has to belong to a listed field"
        );
        impl $crate::abi::layout::Layout for $Type {
            const FIELDS: &'static [$crate::abi::layout::Field] = &[$(
                $crate::abi::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($Type, $field),
                    size: $crate::abi::layout::field_size::<$Type, _>(|it| &it.$field),
                },
            )*];
        }
    };
}

/// Declares an integer newtype with named values. Values without a name are kept and printed in hex.
macro_rules! codes {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($repr:ty) {
            $($(#[$code_meta:meta])* $CODE:ident = $value:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
        )]
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
                    None => write!(f, concat!(stringify!($Name), "({:#x?})"), self.0),
                }
            }
        }
    };
}

/// Declares a set of independent bits. Unknown bits are refused by `from_bits` and kept by `from_bits_retain`.
macro_rules! flags {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($repr:ty) {
            $($(#[$attribute:ident $($arguments:tt)*])* $FLAG:ident = $value:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
        )]
        #[repr(transparent)]
        pub struct $Name($repr);

        bitflags::bitflags! {
            impl $Name: $repr {
                $($(#[$attribute $($arguments)*])* const $FLAG = $value;)*
            }
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(concat!(stringify!($Name), "("))?;
                bitflags::parser::to_writer(self, &mut *f)?;
                f.write_str(")")
            }
        }
    };
}

/// Declares a number made of fields that are wider than a bit. `name / with_name @ high:low`.
macro_rules! bit_struct {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($repr:ty) {
            $($(#[$field_meta:meta])* $get:ident / $with:ident @ $high:literal : $low:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
        )]
        #[repr(transparent)]
        pub struct $Name($repr);

        impl $Name {
            /// Bits that belong to no field.
            pub const RESERVED: $repr = !(0 $(| ((<$repr>::MAX >> (<$repr>::BITS - 1 - $high + $low)) << $low))*);

            /// Wraps a raw value. All bits are kept.
            pub const fn from_bits_retain(bits: $repr) -> Self {
                Self(bits)
            }

            /// Returns the raw value.
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// Says whether a bit is set that belongs to no field.
            // Some of the numbers have no reserved bits.
            #[allow(clippy::bad_bit_mask)]
            pub const fn has_reserved_bits(self) -> bool {
                self.0 & Self::RESERVED != 0
            }

            $(
                $(#[$field_meta])*
                pub const fn $get(self) -> $repr {
                    (self.0 >> $low) & (<$repr>::MAX >> (<$repr>::BITS - 1 - $high + $low))
                }

                #[doc = concat!("Replaces [`", stringify!($get), "`](Self::", stringify!($get), "). Bits of `value` above the field are dropped.")]
                #[must_use]
                pub const fn $with(self, value: $repr) -> Self {
                    let mask = <$repr>::MAX >> (<$repr>::BITS - 1 - $high + $low);
                    Self((self.0 & !(mask << $low)) | ((value & mask) << $low))
                }
            )*
        }

        impl $crate::abi::layout::BitLayout for $Name {
            const FIELDS: &'static [$crate::abi::layout::BitField] = &[$(
                $crate::abi::layout::BitField { name: stringify!($get), high: $high, low: $low },
            )*];
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($Name))
                    $(.field(stringify!($get), &format_args!("{:#x}", self.$get())))*
                    .finish()
            }
        }
    };
}
