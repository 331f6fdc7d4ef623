//! What errors are called in the other family.

use harness::packet::UDP;

/// Type, code, second word.
pub(super) type Error = (u8, u8, u32);

/// IPv4 errors and what they are called in IPv6 (RFC 7915 section 4.2).
pub(super) const TO_V6: &[(Error, Option<Error>)] = &[
    ((3, 0, 0), Some((1, 0, 0))),
    ((3, 1, 0), Some((1, 0, 0))),
    ((3, 2, 0), Some((4, 1, 6))),
    ((3, 3, 0), Some((1, 4, 0))),
    ((3, 4, 1400), Some((2, 0, 1420))),
    ((3, 4, 1260), Some((2, 0, 1280))),
    ((3, 4, 1259), Some((2, 0, 1280))),
    ((3, 4, 0), Some((2, 0, 1280))),
    ((3, 4, 0xffff_0578), Some((2, 0, 1420))),
    ((3, 5, 0), Some((1, 0, 0))),
    ((3, 6, 0), Some((1, 0, 0))),
    ((3, 7, 0), Some((1, 0, 0))),
    ((3, 8, 0), Some((1, 0, 0))),
    ((3, 9, 0), Some((1, 1, 0))),
    ((3, 10, 0), Some((1, 1, 0))),
    ((3, 11, 0), Some((1, 0, 0))),
    ((3, 12, 0), Some((1, 0, 0))),
    ((3, 13, 0), Some((1, 1, 0))),
    ((3, 14, 0), None),
    ((3, 15, 0), Some((1, 1, 0))),
    ((3, 16, 0), None),
    ((11, 0, 0), Some((3, 0, 0))),
    ((11, 1, 0), Some((3, 1, 0))),
    ((12, 0, 0x0000_0000), Some((4, 0, 0))),
    ((12, 0, 0x0100_0000), Some((4, 0, 1))),
    ((12, 0, 0x0200_0000), Some((4, 0, 4))),
    ((12, 0, 0x0300_0000), Some((4, 0, 4))),
    ((12, 0, 0x0400_0000), None),
    ((12, 0, 0x0500_0000), None),
    ((12, 0, 0x0600_0000), None),
    ((12, 0, 0x0700_0000), None),
    ((12, 0, 0x0800_0000), Some((4, 0, 7))),
    ((12, 0, 0x0900_0000), Some((4, 0, 6))),
    ((12, 0, 0x0a00_0000), None),
    ((12, 0, 0x0b00_0000), None),
    ((12, 0, 0x0c00_0000), Some((4, 0, 8))),
    ((12, 0, 0x0f00_0000), Some((4, 0, 8))),
    ((12, 0, 0x1000_0000), Some((4, 0, 24))),
    ((12, 0, 0x1300_0000), Some((4, 0, 24))),
    ((12, 0, 0x1400_0000), None),
    ((12, 0, 0xff00_0000), None),
    // the rest of the word is unused
    ((12, 0, 0x08ff_ffff), Some((4, 0, 7))),
    ((12, 1, 0x0800_0000), None),
    ((12, 2, 0x0200_0000), Some((4, 0, 4))),
    ((12, 2, 0x1400_0000), None),
    ((12, 3, 0x0800_0000), None),
    // of longer quotes (RFC 4884)
    ((3, 1, 0x0011_0000), Some((1, 0, 0))),
    ((11, 0, 0x0011_0000), Some((3, 0, 0))),
];

/// IPv6 errors and what they are called in IPv4 (section 5.2). Of an MTU: about segments; about datagrams, which may have to
/// come in fragments, it is 8 less.
pub(super) const TO_V4: &[(Error, Option<Error>)] = &[
    ((1, 0, 0), Some((3, 1, 0))),
    ((1, 1, 0), Some((3, 10, 0))),
    ((1, 2, 0), Some((3, 1, 0))),
    ((1, 3, 0), Some((3, 1, 0))),
    ((1, 4, 0), Some((3, 3, 0))),
    ((1, 5, 0), None),
    ((1, 6, 0), None),
    ((2, 0, 1400), Some((3, 4, 1380))),
    ((2, 0, 1280), Some((3, 4, 1260))),
    ((2, 0, 600), Some((3, 4, 1260))),
    ((3, 0, 0), Some((11, 0, 0))),
    ((3, 1, 0), Some((11, 1, 0))),
    ((4, 0, 0), Some((12, 0, 0x0000_0000))),
    ((4, 0, 1), Some((12, 0, 0x0100_0000))),
    ((4, 0, 2), None),
    ((4, 0, 3), None),
    ((4, 0, 4), Some((12, 0, 0x0200_0000))),
    ((4, 0, 5), Some((12, 0, 0x0200_0000))),
    ((4, 0, 6), Some((12, 0, 0x0900_0000))),
    ((4, 0, 7), Some((12, 0, 0x0800_0000))),
    ((4, 0, 8), Some((12, 0, 0x0c00_0000))),
    ((4, 0, 23), Some((12, 0, 0x0c00_0000))),
    ((4, 0, 24), Some((12, 0, 0x1000_0000))),
    ((4, 0, 39), Some((12, 0, 0x1000_0000))),
    ((4, 0, 40), None),
    ((4, 0, u32::MAX), None),
    ((4, 1, 6), Some((3, 2, 0))),
    ((4, 1, 40), Some((3, 2, 0))),
    ((4, 2, 40), None),
    ((4, 3, 0), None),
    // of longer quotes (RFC 4884)
    ((1, 0, 0x0600_0000), Some((3, 1, 0))),
    ((3, 0, 0x0600_0000), Some((11, 0, 0))),
];

/// What an error becomes on its way from one family to another.
pub(super) fn told((kind, code, rest): Error, from_v6: bool, to_v6: bool, protocol: u8) -> Option<Error> {
    let rows: &[(Error, Option<Error>)] = match (from_v6, to_v6) {
        (true, true) => return Some((kind, code, if matches!(kind, 1 | 3) { 0 } else { rest })),
        (true, false) => TO_V4,
        (false, _) => TO_V6,
    };
    let (_, told) = rows.iter().find(|(error, _)| *error == (kind, code, rest)).expect("a row");
    let is_mtu_of_datagrams = told.is_some_and(|(kind, code, _)| (kind, code) == (3, 4)) && protocol == UDP;
    told.map(|(kind, code, rest)| (kind, code, if is_mtu_of_datagrams { rest - 8 } else { rest }))
}
