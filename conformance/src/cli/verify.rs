//! `verify`: judges a report from files, with a line for each check.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use backend_snp::abi::report::{GuestPolicy, PlatformInfo};
use backend_snp::abi::vmpl::Vmpl;
use backend_snp::evidence::{Product, Tcb};
use backend_snp::verify::{Expectations, Root, Verifier, Wanted, certificates};

use crate::hex;

/// What the report is, what signed it, and what it has to say. Only root and time have a default: the vendor's roots, and now.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The report: 1184 bytes as the firmware made them
    report: PathBuf,
    /// Certificates as DER or PEM, in any order: ARK, ASK, VCEK or VLEK
    #[arg(long, value_name = "FILE", num_args = 1..)]
    chain: Vec<PathBuf>,
    /// Trust the root key of this certificate, and not the vendor's
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// The level that the report has to name: 0 to 3
    #[arg(long, value_name = "NUMBER")]
    vmpl: Option<String>,
    /// Data of the request: 64 bytes
    #[arg(long, value_name = "HEX")]
    report_data: Option<String>,
    /// Least platform version of a product, such as milan:boot_loader=3,tee=0,snp=8,microcode=115; once for each product
    #[arg(long, value_name = "PRODUCT:PARTS")]
    min_tcb: Vec<String>,
    /// The most permissive launch policy: a number
    #[arg(long, value_name = "NUMBER")]
    policy: Option<String>,
    /// Launch digest: 48 bytes, or `any`
    #[arg(long, value_name = "HEX")]
    measurement: Option<String>,
    /// Data of the host: 32 bytes, or `any`
    #[arg(long, value_name = "HEX")]
    host_data: Option<String>,
    /// SHA-384 of the ID key: 48 bytes, zeros for none, or `any`
    #[arg(long, value_name = "HEX")]
    id_key: Option<String>,
    /// Platform flags that have to be set, such as ecc_en,alias_check_complete, or `none`
    #[arg(long, value_name = "NAMES")]
    platform: Option<String>,
    /// When the certificates have to be valid, in seconds since 1970; now, if it is not said
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
}

/// Judges the report and prints the verdict; gives whether it was accepted.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let minimum = minimum(&arguments.min_tcb)?;
    let root = arguments.root.as_deref().map(one_certificate).transpose()?;
    let expectations = Expectations {
        root: root.as_deref().map_or(Root::Vendor, Root::Named),
        time_s: arguments.time.map_or_else(now, Ok)?,
        minimum: &minimum,
        vmpl: vmpl(needed(&arguments.vmpl, "vmpl", "the level that the report has to name")?)?,
        policy: policy(needed(&arguments.policy, "policy", "the most permissive launch policy")?)?,
        report_data: bytes(
            needed(&arguments.report_data, "report-data", "the 64 bytes of the request")?,
            "report-data",
        )?,
        measurement: wanted(&arguments.measurement, "measurement", "the launch digest")?,
        host_data: wanted(&arguments.host_data, "host-data", "the data that the host gave at launch")?,
        id_key_digest: wanted(&arguments.id_key, "id-key", "the SHA-384 of the ID key")?,
        platform: flags(needed(&arguments.platform, "platform", "the platform flags that have to be set, or `none`")?)?,
    };
    if arguments.chain.is_empty() {
        return Err(missing("chain", "the files with ARK, ASK, and VCEK or VLEK"));
    }
    let mut chain = Vec::new();
    for file in &arguments.chain {
        chain.extend(certificates(&read(file)?).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let verdict = Verifier::new(&chain, expectations).verify(&read(&arguments.report)?);
    println!("{verdict}");
    Ok(verdict.is_accepted())
}

fn missing(option: &str, what: &str) -> String {
    format!("--{option} is missing: {what}")
}

fn needed<'a>(value: &'a Option<String>, option: &str, what: &str) -> Result<&'a str, String> {
    value.as_deref().ok_or_else(|| missing(option, what))
}

fn wanted<const N: usize>(value: &Option<String>, option: &str, what: &str) -> Result<Wanted<[u8; N]>, String> {
    match needed(value, option, &format!("{what}, or `any`"))? {
        "any" => Ok(Wanted::Any),
        hex => bytes(hex, option).map(Wanted::Is),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// The certificate that names a root: the only one in its file.
fn one_certificate(file: &Path) -> Result<Vec<u8>, String> {
    let found = certificates(&read(file)?).map_err(|error| format!("{}: {error}", file.display()))?;
    match <[Vec<u8>; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(more) => Err(format!("{}: {} certificates, and the root is one", file.display(), more.len())),
    }
}

fn now() -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map(|time| time.as_secs()).map_err(|_| "the clock stands before 1970; say --time".to_owned())
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn vmpl(text: &str) -> Result<Vmpl, String> {
    let level = text.parse().ok().and_then(|level: u8| Vmpl::try_from(level).ok());
    level.ok_or_else(|| format!("--vmpl {text}: not a number from 0 to 3"))
}

fn policy(text: &str) -> Result<GuestPolicy, String> {
    let bits = number(text).ok_or_else(|| format!("--policy {text}: not a number"))?;
    Ok(GuestPolicy::from_bits_retain(bits))
}

fn bytes<const N: usize>(text: &str, option: &str) -> Result<[u8; N], String> {
    hex::decode(text).ok_or_else(|| format!("--{option}: not {N} bytes in hex"))
}

fn flags(text: &str) -> Result<PlatformInfo, String> {
    if text == "none" {
        return Ok(PlatformInfo::empty());
    }
    let known = |name: &str| {
        let flag = PlatformInfo::from_name(&name.to_uppercase());
        flag.ok_or_else(|| format!("--platform: no flag is called `{name}`"))
    };
    text.split(',').map(known).collect::<Result<_, _>>()
}

fn minimum(texts: &[String]) -> Result<Vec<(Product, Tcb)>, String> {
    if texts.is_empty() {
        return Err(missing("min-tcb", "the least platform version of each product that is accepted"));
    }
    texts.iter().map(|text| one_minimum(text)).collect()
}

fn one_minimum(text: &str) -> Result<(Product, Tcb), String> {
    let (name, parts) = text.split_once(':').unwrap_or((text, ""));
    let product = Product::ALL.into_iter().find(|product| product.name().eq_ignore_ascii_case(name));
    let product = product.ok_or_else(|| format!("--min-tcb: no product is called `{name}`"))?;
    let mut given = Vec::new();
    for part in parts.split(',').filter(|part| !part.is_empty()) {
        let version = part.split_once('=').and_then(|(name, version)| Some((name, version.parse::<u8>().ok()?)));
        given.push(version.ok_or_else(|| format!("--min-tcb {name}: `{part}` is not a part and a number up to 255"))?);
    }
    let total = given.len();
    let mut take = |wanted: &str| {
        let at = given.iter().position(|(name, _)| *name == wanted);
        let at = at.ok_or_else(|| format!("--min-tcb {name}: {wanted} is missing"))?;
        Ok::<u8, String>(given.swap_remove(at).1)
    };
    let tcb = Tcb {
        fmc: if product == Product::Turin { Some(take("fmc")?) } else { None },
        boot_loader: take("boot_loader")?,
        tee: take("tee")?,
        snp: take("snp")?,
        microcode: take("microcode")?,
    };
    match given.first() {
        Some((left, _)) => Err(format!("--min-tcb {name}: {left} is one of {total} parts that does not belong there")),
        None => Ok((product, tcb)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_names_every_part_of_its_product() {
        let milan = one_minimum("milan:boot_loader=3,tee=0,snp=8,microcode=115");
        assert_eq!(milan, Ok((Product::Milan, Tcb { fmc: None, boot_loader: 3, tee: 0, snp: 8, microcode: 115 })));
        let turin = one_minimum("Turin:microcode=5,fmc=1,boot_loader=2,tee=3,snp=4");
        assert_eq!(turin, Ok((Product::Turin, Tcb { fmc: Some(1), boot_loader: 2, tee: 3, snp: 4, microcode: 5 })));
        for (text, complaint) in [
            ("rome:snp=1", "--min-tcb: no product is called `rome`"),
            ("milan", "--min-tcb milan: boot_loader is missing"),
            ("milan:boot_loader=3,tee=0,snp=8", "--min-tcb milan: microcode is missing"),
            ("turin:boot_loader=3,tee=0,snp=8,microcode=1", "--min-tcb turin: fmc is missing"),
            ("milan:boot_loader=256", "--min-tcb milan: `boot_loader=256` is not a part and a number up to 255"),
            (
                "milan:boot_loader=3,tee=0,snp=8,microcode=115,fmc=1",
                "--min-tcb milan: fmc is one of 5 parts that does not belong there",
            ),
        ] {
            assert_eq!(one_minimum(text).unwrap_err(), complaint);
        }
    }

    #[test]
    fn flags_have_the_names_of_the_table() {
        assert_eq!(flags("none"), Ok(PlatformInfo::empty()));
        assert_eq!(flags("ecc_en,ALIAS_CHECK_COMPLETE"), Ok(PlatformInfo::ECC_EN | PlatformInfo::ALIAS_CHECK_COMPLETE));
        assert!(flags("").is_err() && flags("ecc_en,nothing").is_err());
    }
}
