//! Products, and what the bytes of a platform version mean on each.

use core::fmt;

use crate::abi::report::TcbVersion;

/// A line of processors with one root key and one layout of platform versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// Family 0x19, models 0x00 to 0x0f.
    Milan,
    /// Family 0x19, models 0x10 to 0x1f and 0xa0 to 0xaf: Genoa, Bergamo and Siena.
    Genoa,
    /// Family 0x1a, models 0x00 to 0x11.
    Turin,
}

impl Product {
    /// All products.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The product of a processor with this combined family and model.
    pub const fn of_processor(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product with this name, which a stepping may follow after a hyphen, as in a certificate.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.split('-').next().unwrap_or(name);
        match name {
            "Milan" => Some(Self::Milan),
            "Genoa" | "Bergamo" | "Siena" => Some(Self::Genoa),
            "Turin" => Some(Self::Turin),
            _ => None,
        }
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Bytes of a chip id that count; those behind are zero.
    pub const fn chip_id_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A platform version: the security version of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// Firmware of the memory controller; from Turin on.
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub boot_loader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    /// Reads the bytes of a report as `product` writes them; `None` when a reserved byte is not zero.
    pub fn read(raw: TcbVersion, product: Product) -> Option<Self> {
        let tcb = match product {
            Product::Milan | Product::Genoa => {
                let tcb = raw.as_milan();
                Self { fmc: None, boot_loader: tcb.boot_loader, tee: tcb.tee, snp: tcb.snp, microcode: tcb.microcode }
            }
            Product::Turin => {
                let tcb = raw.as_turin();
                Self {
                    fmc: Some(tcb.fmc),
                    boot_loader: tcb.boot_loader,
                    tee: tcb.tee,
                    snp: tcb.snp,
                    microcode: tcb.microcode,
                }
            }
        };
        (tcb.bytes() == raw).then_some(tcb)
    }

    /// The bytes as the product writes them.
    pub const fn bytes(self) -> TcbVersion {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        TcbVersion(match fmc {
            None => [boot_loader, tee, 0, 0, 0, 0, snp, microcode],
            Some(fmc) => [fmc, boot_loader, tee, snp, 0, 0, 0, microcode],
        })
    }

    /// The parts by name.
    pub fn parts(self) -> impl Iterator<Item = (&'static str, u8)> {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        let rest = [("boot_loader", boot_loader), ("tee", tee), ("snp", snp), ("microcode", microcode)];
        fmc.map(|fmc| ("fmc", fmc)).into_iter().chain(rest)
    }

    /// The first part that is older than in `minimum`.
    pub fn older_part(self, minimum: Self) -> Option<&'static str> {
        let is_older = |(name, least): (&'static str, u8)| {
            let own = self.parts().find(|(own, _)| *own == name).map(|(_, version)| version);
            own.is_none_or(|own| own < least).then_some(name)
        };
        minimum.parts().find_map(is_older)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, version)) in self.parts().enumerate() {
            write!(f, "{}{name}={version}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn processors_belong_to_products() {
        let rows = [
            (0x19, 0x00, Some(Product::Milan)),
            (0x19, 0x0f, Some(Product::Milan)),
            (0x19, 0x10, Some(Product::Genoa)),
            (0x19, 0x1f, Some(Product::Genoa)),
            (0x19, 0x20, None),
            (0x19, 0x9f, None),
            (0x19, 0xa0, Some(Product::Genoa)),
            (0x19, 0xaf, Some(Product::Genoa)),
            (0x19, 0xb0, None),
            (0x1a, 0x00, Some(Product::Turin)),
            (0x1a, 0x11, Some(Product::Turin)),
            (0x1a, 0x12, None),
            (0x17, 0x00, None),
        ];
        for (family, model, product) in rows {
            assert_eq!(Product::of_processor(family, model), product, "{family:#x} {model:#x}");
        }
    }

    #[test]
    fn names_of_products_have_steppings() {
        for product in Product::ALL {
            assert_eq!(Product::of_name(product.name()), Some(product));
        }
        assert_eq!(Product::of_name("Milan-B0"), Some(Product::Milan));
        assert_eq!(Product::of_name("Siena-A1"), Some(Product::Genoa));
        for name in ["", "milan", "Rome", "Milano", "-Milan"] {
            assert_eq!(Product::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn platform_version_bytes_are_those_of_milan_and_genoa_or_of_turin() {
        let bytes = TcbVersion([1, 2, 0, 0, 0, 0, 7, 8]);
        for product in [Product::Milan, Product::Genoa] {
            let tcb = Tcb::read(bytes, product).unwrap();
            assert_eq!(tcb, Tcb { fmc: None, boot_loader: 1, tee: 2, snp: 7, microcode: 8 });
            assert_eq!(tcb.to_string(), "boot_loader=1,tee=2,snp=7,microcode=8");
        }
        assert_eq!(Tcb::read(bytes, Product::Turin), None, "byte 6 is reserved there");
        let bytes = TcbVersion([1, 2, 3, 4, 0, 0, 0, 8]);
        let tcb = Tcb::read(bytes, Product::Turin).unwrap();
        assert_eq!(tcb, Tcb { fmc: Some(1), boot_loader: 2, tee: 3, snp: 4, microcode: 8 });
        assert_eq!(tcb.to_string(), "fmc=1,boot_loader=2,tee=3,snp=4,microcode=8");
        for (product, reserved) in [(Product::Milan, 2..6), (Product::Turin, 4..7)] {
            for at in 0..8 {
                let mut bytes = [0; 8];
                bytes[at] = 1;
                assert_eq!(Tcb::read(TcbVersion(bytes), product).is_none(), reserved.contains(&at), "byte {at}");
            }
        }
    }

    #[test]
    fn a_platform_version_is_as_old_as_its_oldest_part() {
        let least = Tcb { fmc: Some(1), boot_loader: 2, tee: 3, snp: 4, microcode: 5 };
        assert_eq!(least.older_part(least), None);
        assert_eq!(Tcb { fmc: Some(9), boot_loader: 9, tee: 9, snp: 9, microcode: 9 }.older_part(least), None);
        assert_eq!(Tcb { fmc: Some(0), ..least }.older_part(least), Some("fmc"));
        assert_eq!(Tcb { fmc: None, ..least }.older_part(least), Some("fmc"));
        assert_eq!(Tcb { boot_loader: 1, microcode: 255, ..least }.older_part(least), Some("boot_loader"));
        assert_eq!(Tcb { tee: 2, ..least }.older_part(least), Some("tee"));
        assert_eq!(Tcb { snp: 3, ..least }.older_part(least), Some("snp"));
        assert_eq!(Tcb { microcode: 4, ..least }.older_part(least), Some("microcode"));
    }
}
