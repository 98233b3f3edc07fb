//! Which images there are, and which of them share a batch.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::config::Packing;
use crate::rng;

/// One synthetic image: the `number`th of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub class: u32,
    pub number: u32,
}

impl Item {
    /// The item's random stream for `purpose`; the same whatever batch or process it is in.
    pub(super) fn stream(self, seed: u64, purpose: &str) -> ChaCha8Rng {
        rng::stream(seed, purpose, u64::from(self.class) << 32 | u64::from(self.number))
    }
}

/// `ipc` images of each of `classes` in batches of at most `size`.
pub fn pack(classes: &[u32], ipc: u32, size: u32, packing: Packing, seed: u64) -> Vec<Vec<Item>> {
    let size = size.max(1) as usize;
    let of_class = |class: u32| (0..ipc).map(move |number| Item { class, number });
    if packing == Packing::Class {
        let in_class =
            |class| of_class(class).collect::<Vec<_>>().chunks(size).map(<[Item]>::to_vec).collect::<Vec<_>>();
        return classes.iter().copied().flat_map(in_class).collect();
    }
    let mut items: Vec<Item> =
        (0..ipc).flat_map(|number| classes.iter().map(move |&class| Item { class, number })).collect();
    if packing == Packing::Shuffled {
        items.shuffle(&mut rng::stream(seed, "recover/packing", 0));
    }
    items.chunks(size).map(<[Item]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(batches: &[Vec<Item>], classes: u32, ipc: u32) {
        let mut all: Vec<_> = batches.concat().iter().map(|i| (i.class, i.number)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len() as u32, batches.concat().len() as u32), (classes * ipc, classes * ipc));
    }

    #[test]
    fn even_batches_take_every_class_in_turn() {
        let found = pack(&[0, 1, 2], 4, 5, Packing::Even, 0);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 2]);
        assert_eq!(found[0][3], Item { class: 0, number: 1 });
        complete(&found, 3, 4);
        let some = pack(&[4, 7], 1, 5, Packing::Even, 0);
        assert_eq!(some, [[Item { class: 4, number: 0 }, Item { class: 7, number: 0 }]]);
    }

    #[test]
    fn shuffled_batches_depend_on_the_seed_alone() {
        let found = pack(&[0, 1, 2], 4, 5, Packing::Shuffled, 1);
        complete(&found, 3, 4);
        assert_eq!(found, pack(&[0, 1, 2], 4, 5, Packing::Shuffled, 1));
        assert_ne!(found, pack(&[0, 1, 2], 4, 5, Packing::Shuffled, 2));
        assert_ne!(found, pack(&[0, 1, 2], 4, 5, Packing::Even, 1));
    }

    #[test]
    fn batches_of_a_class_hold_no_other() {
        let found = pack(&[0, 1, 2], 4, 3, Packing::Class, 0);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 3, 1, 3, 1]);
        assert!(found.iter().all(|batch| batch.iter().all(|item| item.class == batch[0].class)));
        complete(&found, 3, 4);
    }
}
