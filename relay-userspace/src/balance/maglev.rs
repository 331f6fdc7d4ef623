//! Weighted Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4): a table of places by hash, which changes little when backends come and go.

use relay_common::balance::mix;

/// Sizes of tables, primes. The fewer places a backend has, the more of others' places change hands when it goes.
const SIZES: [usize; 7] = [1021, 2039, 4093, 8191, 16_381, 32_749, 65_521];
const PLACES_EACH: usize = 400;

/// Each backend fills the table in an order of its own, `weight` places of each round at a time.
///
/// `name`: what decides a backend's order.
pub(super) fn places(weights: &[u16], name: impl Fn(usize) -> String) -> Vec<u16> {
    // of all that there are: the size stays when some are down
    let wanted = weights.len() * PLACES_EACH;
    let size = SIZES.into_iter().find(|size| wanted <= *size).unwrap_or(SIZES[SIZES.len() - 1]);
    let most = weights.iter().copied().max().unwrap_or(0);
    let mut fillers: Vec<Filler> = (0u16..)
        .zip(weights)
        .filter(|(_, weight)| **weight > 0)
        .map(|(index, weight)| Filler::new(index, *weight, &name(index.into()), size))
        .collect();
    let mut places: Vec<Option<u16>> = vec![None; size];
    let mut left = size;
    while left > 0 {
        for filler in &mut fillers {
            filler.credit += u32::from(filler.weight);
            if filler.credit < u32::from(most) {
                continue;
            }
            filler.credit -= u32::from(most);
            filler.take(&mut places);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    places.into_iter().flatten().collect()
}

/// One backend on its way through the table.
struct Filler {
    index: u16,
    weight: u16,
    /// Grows by the weight each round; a place costs the largest weight.
    credit: u32,
    next: usize,
    skip: usize,
}

impl Filler {
    fn new(index: u16, weight: u16, name: &str, size: usize) -> Self {
        let hash = hash(name);
        let part = |hash: u64, size: usize| ((u128::from(hash) * size as u128) >> 64) as usize;
        Self { index, weight, credit: 0, next: part(hash, size), skip: part(mix(hash), size - 1) + 1 }
    }

    /// Takes the next free place of its order. There must be one.
    fn take(&mut self, places: &mut [Option<u16>]) {
        while places[self.next].is_some() {
            self.advance(places.len());
        }
        places[self.next] = Some(self.index);
        self.advance(places.len());
    }

    const fn advance(&mut self, size: usize) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// Stays the same over versions and machines: clients keep their backend.
fn hash(name: &str) -> u64 {
    name.bytes().fold(name.len() as u64, |hash, byte| mix(hash.wrapping_add(u64::from(byte) + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_common::balance::place_of;

    const CLIENTS: u32 = 10_000;

    fn table(weights: &[u16]) -> Vec<u16> {
        places(weights, |index| format!("203.0.113.{index}:80"))
    }

    fn chosen(places: &[u16]) -> Vec<u16> {
        let client = |index: u32| [0, 0, u32::MAX, (0x0a00_0000 + index * 7).to_be()];
        let count = u32::try_from(places.len()).expect("places");
        (0..CLIENTS).map(|index| places[place_of(&client(index), count) as usize]).collect()
    }

    #[test]
    fn shares_are_within_a_twentieth_of_the_weights() {
        for weights in [&[1, 1][..], &[4, 2, 1], &[1; 10], &[1000, 1, 500]] {
            let chosen = chosen(&table(weights));
            let sum: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            for (index, weight) in (0u16..).zip(weights) {
                let share =
                    chosen.iter().filter(|choice| **choice == index).count() as f64 / f64::from(CLIENTS);
                let wanted = f64::from(*weight) / f64::from(sum);
                // a hundred clients or fewer stray more than that by chance
                assert!((share - wanted).abs() <= 0.05 * wanted + 0.01, "{weights:?} {index}: {share}");
            }
        }
    }

    #[test]
    fn one_that_goes_takes_few_clients_along() {
        for backends in [2u16, 3, 5, 10, 20] {
            let before = chosen(&table(&vec![1; backends.into()]));
            for gone in 0..backends {
                let weights: Vec<u16> = (0..backends).map(|index| u16::from(index != gone)).collect();
                let after = chosen(&table(&weights));
                let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
                let most = (1.0 / f64::from(backends) + 0.02) * f64::from(CLIENTS);
                assert!((moved as f64) <= most, "{backends} without {gone}: {moved} moved of at most {most}");
            }
        }
    }

    #[test]
    fn a_backend_keeps_its_clients_wherever_it_stands() {
        let forwards = places(&[1, 1, 1], |index| ["a", "b", "c"][index].to_owned());
        let backwards = places(&[1, 1, 1], |index| ["c", "b", "a"][index].to_owned());
        let moved = forwards.iter().zip(&backwards).filter(|(one, other)| **one != 2 - **other).count();
        assert!(moved * 100 <= forwards.len() * 2, "{moved}");
    }
}
