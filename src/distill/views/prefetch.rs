//! Prepares the next batch while the network works on the present one.

use std::sync::mpsc::sync_channel;
use std::thread;

/// Feeds `items` to `consume` in order. A second thread prepares each item while the item before it
/// is consumed.
///
/// # Errors
/// The first error of an item or of `consume`. Later items are not consumed.
pub fn one_ahead<T: Send, E: Send, F: From<E>>(
    items: impl Iterator<Item = Result<T, E>> + Send,
    mut consume: impl FnMut(T) -> Result<(), F>,
) -> Result<(), F> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(0);
        scope.spawn(move || {
            for item in items {
                if sender.send(item).is_err() {
                    break;
                }
            }
        });
        receiver.into_iter().try_for_each(|item| consume(item?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_arrive_in_order_and_errors_end_it() {
        let mut seen = vec![];
        one_ahead((0..100).map(Ok::<_, String>), |item| {
            seen.push(item);
            Ok::<_, String>(())
        })
        .unwrap();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());

        let broken = (0..100).map(|item| if item == 7 { Err("made".to_owned()) } else { Ok(item) });
        let mut last = -1;
        let result = one_ahead(broken, |item| {
            last = item;
            Ok::<_, String>(())
        });
        assert_eq!((result, last), (Err("made".into()), 6));
        let refused = one_ahead((0..).map(Ok::<_, String>), |item| {
            if item == 5 { Err("used".to_owned()) } else { Ok(()) }
        });
        assert_eq!(refused, Err("used".into()));
    }
}
