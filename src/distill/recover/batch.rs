//! The division of an image set into batches, and the step at which each batch joins.

use rand::seq::SliceRandom;

use scdd_artifacts::records::Item;
use scdd_data::rng;
use scdd_experiment::config::{Packing, RecoverConfig};
use scdd_experiment::run::stages::recover::joining;

/// Images that are optimised together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub items: Vec<Item>,
    /// Images per class in the whole set.
    pub ipc: u32,
    /// The step of the schedule at which the batch joins; above 0 only in DELT's later rounds.
    pub first: u32,
}

/// Divides `ipc` images of each of `classes` into batches.
///
/// With several rounds (DELT's early-late optimisation, arXiv 2411.19946) a class's images join in
/// equal parts, one per round, at equal distances in the schedule, so that later images are
/// optimised for fewer steps. A batch holds images of one round only.
pub fn pack(classes: &[u32], ipc: u32, config: &RecoverConfig, seed: u64) -> Vec<Batch> {
    let rounds = u64::from(config.rounds);
    let of_round = |round: u32| {
        let first = (u64::from(config.iterations) * u64::from(round) / rounds) as u32;
        let groups = group(classes, joining(config, ipc, round), config.packing, seed);
        let size = config.batch_size.max(1) as usize;
        let batches: Vec<Batch> = groups
            .iter()
            .flat_map(|group| group.chunks(size))
            .map(|items| Batch { items: items.to_vec(), ipc, first })
            .collect();
        batches
    };
    (0..config.rounds).flat_map(of_round).collect()
}

/// Groups the images with these `numbers`. Batches do not cross groups.
fn group(
    classes: &[u32],
    numbers: std::ops::Range<u32>,
    packing: Packing,
    seed: u64,
) -> Vec<Vec<Item>> {
    let of_class = |class: u32| numbers.clone().map(move |number| Item { class, number });
    if packing == Packing::Class {
        return classes.iter().map(|&class| of_class(class).collect()).collect();
    }
    if packing == Packing::Ordered {
        return vec![classes.iter().copied().flat_map(of_class).collect()];
    }
    let mut items: Vec<Item> = numbers
        .clone()
        .flat_map(|number| classes.iter().map(move |&class| Item { class, number }))
        .collect();
    if packing == Packing::Shuffled {
        items.shuffle(&mut rng::stream(seed, "recover/packing", numbers.start.into()));
    }
    vec![items]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::config;

    fn packed(settings: &str, seed: u64) -> Vec<Batch> {
        let config = config(settings);
        let batches = pack(&[0, 1, 2], 4, &config, seed);
        assert_eq!(
            batches.len() as u64,
            scdd_experiment::run::stages::recover::batches(&config, 3, 4)
        );
        let mut all: Vec<_> =
            batches.iter().flat_map(|b| &b.items).map(|i| (i.class, i.number)).collect();
        all.sort_unstable();
        let complete: Vec<_> =
            (0..3).flat_map(|class| (0..4).map(move |number| (class, number))).collect();
        assert_eq!(all, complete);
        batches
    }

    fn sizes(batches: &[Batch]) -> Vec<usize> {
        batches.iter().map(|batch| batch.items.len()).collect()
    }

    #[test]
    fn even_batches_take_every_class_in_turn() {
        let found = packed("{batch_size: 5}", 0);
        assert_eq!(sizes(&found), [5, 5, 2]);
        assert_eq!(found[0].items[3], Item { class: 0, number: 1 });
        assert!(found.iter().all(|batch| batch.first == 0));
    }

    #[test]
    fn shuffled_batches_depend_on_the_seed_alone() {
        let settings = "{batch_size: 5, packing: shuffled}";
        assert_eq!(packed(settings, 1), packed(settings, 1));
        assert_ne!(packed(settings, 1), packed(settings, 2));
        assert_ne!(packed(settings, 1), packed("{batch_size: 5}", 1));
    }

    #[test]
    fn batches_of_a_class_hold_no_other() {
        let found = packed("{batch_size: 3, packing: class}", 0);
        assert_eq!(sizes(&found), [3, 1, 3, 1, 3, 1]);
        assert!(
            found
                .iter()
                .all(|batch| batch.items.iter().all(|item| item.class == batch.items[0].class))
        );
    }

    #[test]
    fn ordered_batches_take_class_after_class() {
        let found = packed("{batch_size: 5, packing: ordered}", 0);
        assert_eq!(sizes(&found), [5, 5, 2]);
        assert_eq!(
            found[0].items.iter().map(|item| item.class).collect::<Vec<_>>(),
            [0, 0, 0, 0, 1]
        );
    }

    #[test]
    fn images_of_later_rounds_join_later() {
        let found = packed("{batch_size: 5, rounds: 2, iterations: 100}", 0);
        assert_eq!(sizes(&found), [5, 1, 5, 1]);
        assert_eq!(found.iter().map(|batch| batch.first).collect::<Vec<_>>(), [0, 0, 50, 50]);
        assert!(found[2].items.iter().all(|item| item.number >= 2));
        let single = pack(&[0, 1, 2], 1, &config("{rounds: 8}"), 0);
        assert_eq!((single.len(), single[0].first), (1, 0));
    }
}
