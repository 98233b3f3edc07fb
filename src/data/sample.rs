//! Class-balanced random subsets.

use rand::seq::SliceRandom;

use crate::rng;

/// The indices of `count` images with these `labels`, or all if there are fewer; class after class,
/// in the images' order.
///
/// Each of `classes` gives equally many; if `count` is no multiple, the first classes give one
/// more. If a class has too few, the others give more. The choice within a class depends on `seed`
/// alone.
pub fn even(labels: &[u32], classes: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut members = vec![Vec::new(); classes];
    for (index, label) in labels.iter().enumerate() {
        if let Some(members) = members.get_mut(*label as usize) {
            members.push(index);
        }
    }
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let mut drawn = Vec::new();
    for ((mut members, quota), class) in members.into_iter().zip(quotas(&sizes, count)).zip(0..) {
        members.shuffle(&mut rng::stream(seed, "data/sample", class));
        members.truncate(quota);
        members.sort_unstable();
        drawn.extend(members);
    }
    drawn
}

/// How many images each class gives; `sizes` are the classes' sizes.
fn quotas(sizes: &[usize], count: usize) -> Vec<usize> {
    let mut quotas = vec![0; sizes.len()];
    let mut left = count.min(sizes.iter().sum());
    while left > 0 {
        let open: Vec<usize> =
            (0..sizes.len()).filter(|&class| quotas[class] < sizes[class]).collect();
        let (each, more) = (left / open.len(), left % open.len());
        for (place, class) in open.into_iter().enumerate() {
            // The remainder is given out in a last round, when there is less than one image per
            // class left.
            let share = if each > 0 { each } else { usize::from(place < more) };
            let share = share.min(sizes[class] - quotas[class]);
            quotas[class] += share;
            left -= share;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_class_gives_its_share() {
        assert_eq!(quotas(&[100; 3], 10), [4, 3, 3]);
        assert_eq!(quotas(&[1; 101], 1000), [1; 101]);
        assert_eq!(quotas(&[5, 2, 100], 30), [5, 2, 23]);
        assert_eq!(quotas(&[9, 9, 0], 7), [4, 3, 0]);
        assert_eq!(quotas(&[], 7), [0; 0]);
        // A thousand images of 101 classes: no class gets none.
        let quotas = quotas(&[500; 101], 1000);
        assert_eq!((quotas.iter().min(), quotas.iter().max()), (Some(&9), Some(&10)));
    }

    #[test]
    fn the_seed_draws_and_repeats() {
        let labels: Vec<u32> = (0..1000).map(|i| i % 10).collect();
        let first = even(&labels, 10, 50, 0);
        assert_eq!(first, even(&labels, 10, 50, 0));
        assert_ne!(first, even(&labels, 10, 50, 1));
        assert!(first.iter().any(|&index| index > 500), "not only the first of each class");
    }

    proptest! {
        #[test]
        fn shares_are_even_and_whole(labels in prop::collection::vec(0u32..7, 0..200), count in 0usize..250, seed: u64) {
            let drawn = even(&labels, 7, count, seed);
            prop_assert_eq!(drawn.len(), count.min(labels.len()));
            let distinct: std::collections::BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(distinct.len(), drawn.len());
            let of = |class: u32, among: &[usize]| among.iter().filter(|&&i| labels[i] == class).count();
            let all: Vec<usize> = (0..labels.len()).collect();
            for (a, b) in (0..7).flat_map(|a| (0..7).map(move |b| (a, b))) {
                // A class gives at least two fewer than another only if it has no more.
                let (own, other) = (of(a, &drawn), of(b, &drawn));
                prop_assert!(own + 1 >= other || own == of(a, &all), "{} of {a}, {} of {b}", own, other);
            }
        }
    }
}
