//! Numbers that the fact tables list.

/// Numbers by name, all of them also as a list for the comparison with the fact tables.
macro_rules! numbers {
    ($vis:vis $kind:ty: $($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* $vis const $name: $kind = $value;)*
        #[cfg(test)]
        pub(crate) const LISTED: &[(&str, $kind)] = &[$((stringify!($name), $name)),*];
    };
}
