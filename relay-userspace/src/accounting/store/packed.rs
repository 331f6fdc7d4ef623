//! The minutes of an hour in one value: of each minute that had traffic its number in the hour, then its amounts, each in
//! seven bits a byte (LEB128). A row each would take twice the room.

use std::collections::BTreeMap;

use crate::accounting::amounts::Amounts;

/// By minute of the hour.
pub type Minutes = BTreeMap<u8, Amounts>;

const MORE: u8 = 0x80;

pub fn pack(minutes: &Minutes) -> Vec<u8> {
    let mut packed = Vec::with_capacity(minutes.len() * 16);
    for (minute, amounts) in minutes {
        packed.push(*minute);
        for value in amounts.to_array() {
            put(value, &mut packed);
        }
    }
    packed
}

/// `None` if it ends early or is nothing that [`pack`] writes.
pub fn unpack(mut packed: &[u8]) -> Option<Minutes> {
    let mut minutes = Minutes::new();
    while let Some((minute, rest)) = packed.split_first() {
        packed = rest;
        let mut values = [0; Amounts::COUNT];
        for value in &mut values {
            *value = take(&mut packed)?;
        }
        if *minute >= 60 || minutes.insert(*minute, Amounts::from_array(values)).is_some() {
            return None;
        }
    }
    Some(minutes)
}

fn put(mut value: u64, packed: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            packed.push(low & !MORE);
            return;
        }
        packed.push(low | MORE);
    }
}

fn take(packed: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = packed.split_first()?;
        *packed = rest;
        value |= u64::from(byte & !MORE).checked_shl(shift)?;
        if byte & MORE == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            minutes in proptest::collection::btree_map(0..60_u8, any::<[u64; Amounts::COUNT]>(), 0..60),
            cut in 1..6_usize,
        ) {
            let minutes: Minutes =
                minutes.into_iter().map(|(minute, values)| (minute, Amounts::from_array(values))).collect();
            let packed = pack(&minutes);
            prop_assert_eq!(unpack(&packed), Some(minutes.clone()));
            // all of a minute but its last bytes
            prop_assert!(minutes.is_empty() || unpack(&packed[..packed.len() - cut]) != Some(minutes));
        }

        #[test]
        fn anything_can_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(minutes) = unpack(&bytes) {
                prop_assert_eq!(unpack(&pack(&minutes)), Some(minutes));
            }
        }
    }

    #[test]
    fn a_busy_minute_takes_a_dozen_bytes() {
        let amounts = Amounts::from_array([2_000_000, 3000, 60_000_000, 40_000, 100]);
        assert_eq!(pack(&Minutes::from([(59, amounts)])).len(), 1 + 3 + 2 + 4 + 3 + 1);
        assert_eq!(unpack(&[60, 0, 0, 0, 0, 0]), None, "no such minute");
        assert_eq!(unpack(&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]), None, "the same minute twice");
    }
}
