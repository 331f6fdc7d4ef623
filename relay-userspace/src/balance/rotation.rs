//! Smooth weighted round robin: turns of one backend lie as far apart as its weight allows.

/// The most places of a round. Weights whose round would be longer are brought down to it, by at most half a place each.
const MOST: u32 = 4096;

/// A round: every backend as often as its weight says, after all common factors are taken out.
///
/// Each step all grow by their weight, and the largest one is chosen and gives back the sum (the way nginx does it).
pub(super) fn places(weights: &[u16]) -> Vec<u16> {
    let weights = reduced(weights);
    let sum: i64 = weights.iter().sum();
    let mut credits = vec![0i64; weights.len()];
    let mut places = Vec::new();
    for _ in 0..sum {
        let mut best: Option<usize> = None;
        for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            credits[index] += weight;
            if best.is_none_or(|best| credits[index] > credits[best]) {
                best = Some(index);
            }
        }
        if let Some(best) = best {
            credits[best] -= sum;
            places.push(u16::try_from(best).unwrap_or(u16::MAX));
        }
    }
    places
}

/// Weights of the same proportions whose sum is a round's length.
fn reduced(weights: &[u16]) -> Vec<i64> {
    let divisor = weights.iter().map(|weight| u32::from(*weight)).fold(0, greatest_common_divisor).max(1);
    let sum: u32 = weights.iter().map(|weight| u32::from(*weight) / divisor).sum();
    let scaled = |weight: u32| match weight {
        0 => 0,
        _ if sum <= MOST => weight,
        // rounded, and never to nothing
        _ => ((weight * MOST + sum / 2) / sum).max(1),
    };
    weights.iter().map(|weight| i64::from(scaled(u32::from(*weight) / divisor))).collect()
}

const fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_lie_far_apart() {
        assert_eq!(places(&[4, 2, 1]), [0, 1, 0, 2, 0, 1, 0]);
        assert_eq!(places(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(places(&[1, 0, 1]), [0, 2]);
    }

    #[test]
    fn a_round_is_as_short_as_it_can_be() {
        assert_eq!(places(&[100, 100]), [0, 1]);
        assert_eq!(places(&[1000, 500]).len(), 3);
    }

    #[test]
    fn long_rounds_are_cut_and_leave_nobody_out() {
        let weights: Vec<u16> = (0..100).map(|index| 1000 - index * 7).chain([1]).collect();
        let places = places(&weights);
        assert!((4000..=4200).contains(&places.len()), "{}", places.len());
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (index, weight) in (0u16..).zip(&weights) {
            let share = places.iter().filter(|place| **place == index).count() as f64 / places.len() as f64;
            let wanted = f64::from(*weight) / sum;
            assert!(share > 0.0 && (share - wanted).abs() < 0.0005, "{index}: {share} for {wanted}");
        }
    }
}
