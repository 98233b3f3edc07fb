//! Measures a teacher on real test images: its accuracy, and the order of classes that fits its
//! predictions best.

use std::cmp::Reverse;

use ndarray::Axis;
use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

use super::error::NetworkError;
use super::runtime::{Provider, Runtime, SessionOptions};
use super::{Bundle, BundleError, Measured, Recognised, RecognisedClass};
use crate::views::one_ahead;
use scdd_compute::threads::Threads;
use scdd_data::{Dataset, sample};

/// Images per run.
const BATCH: usize = 50;
/// The seed that draws the images, fixed so that they are always the same.
const SEED: u64 = 0;

/// Runs `teacher` in ONNX Runtime on `test`, which must have as many classes as the teacher, or on
/// a fixed sample of it, drawn evenly over the classes. Calls `progress` with the number of images
/// done.
///
/// # Errors
/// When the network can't be run on the images.
pub fn measure(
    teacher: &Bundle,
    runtime: &Runtime,
    test: &Dataset,
    threads: &Threads,
    progress: &mut dyn FnMut(u64),
) -> Result<Measured, NetworkError> {
    let classes = test.classes.len();
    let sample =
        sample::even(&test.labels, classes, Measured::images_of(test.len(), classes), SEED);
    let answers = answers(teacher, runtime, (test, &sample), threads, progress)?;
    let labels: Vec<usize> = sample.iter().map(|&index| test.labels[index] as usize).collect();
    Ok(judged(&labels, &answers, classes))
}

/// Runs `teacher` in ONNX Runtime on all images of `set`, which are sorted by class. Calls
/// `progress` with the number of images done.
///
/// # Errors
/// When the network can't be run on the images.
pub fn recognise(
    teacher: &Bundle,
    runtime: &Runtime,
    set: &Dataset,
    threads: &Threads,
    progress: &mut dyn FnMut(u64),
) -> Result<Recognised, NetworkError> {
    let all: Vec<usize> = (0..set.len()).collect();
    let answers = answers(teacher, runtime, (set, &all), threads, progress)?;
    let labels: Vec<usize> = set.labels.iter().map(|&label| label as usize).collect();
    Ok(recognised(&labels, &answers, set.classes.len()))
}

/// The class that `teacher` gives to each of the images `chosen`.
fn answers(
    teacher: &Bundle,
    runtime: &Runtime,
    (set, chosen): (&Dataset, &[usize]),
    threads: &Threads,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<usize>, NetworkError> {
    let refuse = |what: String| NetworkError::from(BundleError::invalid(&teacher.dir, what));
    let normalization = teacher.normalization().map_err(|e| refuse(e.to_string()))?;
    let options =
        SessionOptions { provider: Provider::Cpu, optimize: true, threads: threads.count() };
    let mut session = runtime.session(teacher.name(), &teacher.model, &[], options)?;
    let mut answers = Vec::with_capacity(chosen.len());
    let batches = chosen.chunks(BATCH).map(|batch| threads.run(|| normalization.batch(set, batch)));
    one_ahead(batches.map(|images| images.map_err(|e| refuse(e.to_string()))), |images| {
        answers.extend(
            session
                .logits(&images)?
                .axis_iter(Axis(0))
                .map(|logits| largest(logits.iter().copied())),
        );
        progress(answers.len() as u64);
        Ok::<_, NetworkError>(())
    })?;
    Ok(answers)
}

/// Evaluates the predictions `answers` on a set with these `labels`, which are sorted by class.
fn recognised(labels: &[usize], answers: &[usize], classes: usize) -> Recognised {
    let measured = judged(labels, answers, classes);
    let mut votes = vec![vec![0; classes]; classes];
    let mut images = vec![0; classes];
    for (&label, &answer) in labels.iter().zip(answers) {
        images[label] += 1;
        votes[label].get_mut(answer).into_iter().for_each(|votes| *votes += 1);
    }
    let best = votes.iter().zip(&measured.order).map(|(votes, &at)| votes[at as usize]).sum();
    let of_class = |(class, votes): (usize, &Vec<usize>)| {
        // Of equally many votes, those for the class itself count first.
        let rank = |&at: &usize| (votes[at], at == class, Reverse(at));
        let most = (0..classes).max_by_key(rank).unwrap_or(class) as u32;
        RecognisedClass { images: images[class], top1: votes[class], most }
    };
    let classes = votes.iter().enumerate().map(of_class).collect();
    Recognised { measured, best, classes }
}

/// The index of the largest value; a NaN is never chosen.
fn largest(values: impl Iterator<Item = f32>) -> usize {
    values
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i, v) } else { best })
        .0
}

/// Evaluates the predictions `answers` on images with these `labels`, which are sorted by class.
fn judged(labels: &[usize], answers: &[usize], classes: usize) -> Measured {
    let pairs: Vec<(usize, usize)> = labels.iter().copied().zip(answers.iter().copied()).collect();
    let top1 = pairs.iter().filter(|(label, answer)| label == answer).count();
    let (mut gained, mut lost) = (0, 0);
    for half in 0..2 {
        let is_in = |(index, _): &(usize, &(usize, usize))| index % 2 == half;
        let (own, other): (Vec<_>, Vec<_>) = pairs.iter().enumerate().partition(is_in);
        let order = best_order(other.into_iter().map(|(_, pair)| *pair), classes);
        for (_, &(label, answer)) in own {
            let by_order = order.get(label).is_some_and(|&place| place as usize == answer);
            gained += usize::from(by_order && label != answer);
            lost += usize::from(!by_order && label == answer);
        }
    }
    Measured {
        images: pairs.len(),
        top1,
        order: best_order(pairs.into_iter(), classes),
        gained,
        lost,
    }
}

/// The assignment of one predicted class to each labelled class that makes most predictions right.
/// Of equally good assignments, it changes the fewest classes.
fn best_order(pairs: impl Iterator<Item = (usize, usize)>, classes: usize) -> Vec<u32> {
    let mut weights = Matrix::new(classes, classes, 0i64);
    (0..classes).for_each(|class| weights[(class, class)] = 1);
    for pair in pairs.filter(|&(label, answer)| label < classes && answer < classes) {
        weights[pair] += classes as i64 + 1;
    }
    kuhn_munkres(&weights).1.into_iter().map(|place| place as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` images of each of `classes` classes; `answer` is the prediction for the nth image of
    /// a class.
    fn found(classes: usize, count: usize, answer: impl Fn(usize, usize) -> usize) -> Measured {
        let labels: Vec<usize> = (0..classes).flat_map(|class| vec![class; count]).collect();
        let answers: Vec<usize> =
            labels.iter().enumerate().map(|(i, &class)| answer(class, i % count)).collect();
        judged(&labels, &answers, classes)
    }

    #[test]
    fn a_right_order_stays() {
        let good = found(10, 100, |class, n| if n % 10 == 0 { (class + 3) % 10 } else { class });
        assert_eq!((good.top1, good.order.clone()), (900, (0..10).collect()));
        assert!(!good.is_misordered());
        // Random predictions: the best order of one half does not fit the other.
        let noise = |class: usize, n: usize| (class * 7919 + n * n * 104_729 + n * 31) / 13 % 10;
        assert!(!found(10, 100, noise).is_misordered());
    }

    #[test]
    fn a_wrong_order_is_found() {
        let turned =
            found(10, 100, |class, n| if n % 4 == 0 { n / 4 % 10 } else { (class + 1) % 10 });
        assert_eq!(turned.order, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
        assert!(turned.is_misordered() && turned.accuracy() < 0.1);
        let swapped = found(10, 20, |class, _| [0, 1, 7, 3, 4, 5, 6, 2, 8, 9][class]);
        assert_eq!(
            (swapped.order.clone(), swapped.top1),
            (vec![0, 1, 7, 3, 4, 5, 6, 2, 8, 9], 160)
        );
        assert!(swapped.is_misordered());
        // Few images of many classes, each of them difficult.
        let many = found(200, 2, |class, n| if n == 1 && class % 3 == 0 { 5 } else { 199 - class });
        assert!(many.is_misordered(), "{many:?}");
    }

    /// `count` images of each of `classes` classes of a finished set.
    fn seen(
        classes: usize,
        count: usize,
        answer: impl Fn(usize, usize) -> usize,
    ) -> Result<String, String> {
        let labels: Vec<usize> = (0..classes).flat_map(|class| vec![class; count]).collect();
        let answers: Vec<usize> =
            labels.iter().enumerate().map(|(i, &class)| answer(class, i % count)).collect();
        let names: Vec<String> = (0..classes).map(|class| format!("c{class}")).collect();
        let found = recognised(&labels, &answers, classes);
        assert_eq!(
            found.classes.iter().map(|class| class.top1).sum::<usize>(),
            found.measured.top1
        );
        found.judge(("theirs", false), "net", &names)
    }

    #[test]
    fn a_finished_set_in_another_order_is_refused() {
        // Few images, of which the teacher knows half.
        let half =
            seen(10, 10, |class, n| if n % 4 < 2 { (class + 1) % 10 } else { n }).unwrap_err();
        for part in [
            "`net` puts 4.0 % of the 100 images of `theirs` into their class, but 64.0 % in another order",
            "its `c0` looks like `c1`, its `c1` looks like `c2`",
            "`finished.theirs.class_map`",
        ] {
            assert!(half.contains(part), "{half:?} lacks {part:?}");
        }
        // Two classes have changed places.
        let swapped = |class: usize, _| [0, 1, 7, 3, 4, 5, 6, 2, 8, 9][class];
        assert!(seen(10, 10, swapped).unwrap_err().contains("its `c2` looks like `c7`"));
        // One image per class.
        assert!(seen(10, 1, |class, _| 9 - class).is_err());
        assert!(seen(100, 1, |class, _| if class < 4 { 0 } else { 99 - class }).is_err());
    }

    #[test]
    fn a_class_map_is_believed() {
        let labels: Vec<usize> = (0..10).flat_map(|class| vec![class; 10]).collect();
        let answers: Vec<usize> = labels.iter().map(|label| 9 - label).collect();
        let names: Vec<String> = (0..10).map(|class| format!("c{class}")).collect();
        let told = recognised(&labels, &answers, 10).judge(("theirs", true), "net", &names);
        assert!(told.unwrap().ends_with("; the class map is believed"));
    }

    #[test]
    fn a_weak_finished_set_is_none_in_another_order() {
        let noise = |class: usize, n: usize| (class * 7919 + n * n * 104_729 + n * 31) / 13 % 10;
        for count in [1, 2, 10, 50] {
            let told = seen(10, count, noise).unwrap();
            assert!(told.contains("not clearly more than by chance (10.0 %)"), "{told}");
        }
        // The teacher puts each class into one, often the same as another.
        for count in [2, 10, 50] {
            seen(10, count, |class, _| [3, 7, 3, 9, 7, 1, 0, 3, 8, 8][class]).unwrap();
        }
        // The teacher knows a third, and sees one class in all others.
        for count in [1, 10] {
            let told = seen(10, count, |class, _| if class % 3 == 0 { class } else { 8 }).unwrap();
            assert!(told.contains("; the fewest of `c1`, 0 of"), "{told}");
        }
        let all = seen(10, 10, |class, _| class).unwrap();
        assert_eq!(all, "`net` puts 100.0 % of the 100 images of `theirs` into their class");
    }

    #[test]
    fn a_largest_value_is_never_nan() {
        assert_eq!(largest([f32::NAN, 1.0, 3.0, 2.0].into_iter()), 2);
        assert_eq!(largest([f32::NAN; 3].into_iter()), 0);
    }
}
