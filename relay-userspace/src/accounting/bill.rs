//! What a provider would write on the bill for an amount.

use std::str::FromStr;

use super::amounts::Amounts;

/// Which bytes count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Count {
    /// From clients to backends
    In,
    /// From backends to clients
    Out,
    /// Both
    #[default]
    Both,
    /// The larger of the two, of each row
    Max,
}

/// What they are multiplied by, in thousandths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Factor(u32);

impl Default for Factor {
    fn default() -> Self {
        Self(1000)
    }
}

impl FromStr for Factor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = r#"write a number with at most three decimals, such as "2" or "1.5""#;
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(part) || part.len() > 3 {
            return Err(FORM);
        }
        let thousandths = format!("{whole}{part:0<3}").parse().map_err(|_too_large| FORM)?;
        Ok(Self(thousandths))
    }
}

/// Bytes on the bill.
pub fn billed(amounts: &Amounts, count: Count, factor: Factor) -> u64 {
    let (ingress, egress) = (amounts.ingress_bytes, amounts.egress_bytes);
    let bytes = match count {
        Count::In => ingress,
        Count::Out => egress,
        Count::Both => ingress.saturating_add(egress),
        Count::Max => ingress.max(egress),
    };
    u64::try_from(u128::from(bytes) * u128::from(factor.0) / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bills_follow_their_formula() {
        let amounts = Amounts { ingress_bytes: 100, egress_bytes: 300, ..Amounts::default() };
        let bill = |count, factor: &str| billed(&amounts, count, factor.parse().expect(factor));
        assert_eq!(bill(Count::In, "1"), 100);
        assert_eq!(bill(Count::Out, "1.5"), 450);
        assert_eq!(bill(Count::Both, "2"), 800);
        assert_eq!(bill(Count::Max, "0.125"), 37);
        for text in ["", "-1", "x", "1.2345", "1.", "99999999999"] {
            assert!(text.parse::<Factor>().is_err(), "{text}");
        }
    }
}
