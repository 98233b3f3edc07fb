//! k-means: selects the images that represent the clusters of a class.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rand::{Rng, RngExt};

/// The maximum number of iterations of Lloyd's algorithm; it converges long before.
const ROUNDS: usize = 100;

/// Clusters `points` `[N, D]` into `count` clusters and returns the point nearest to each centre,
/// without repetition, larger clusters first. If there are at most `count` points, returns all.
///
/// Lloyd's algorithm, started by k-means++ (Arthur and Vassilvitskii 2007). A cluster that loses
/// its last point takes the point that is farthest from its own centre.
pub fn representatives(points: ArrayView2<f32>, count: usize, rng: &mut impl Rng) -> Vec<usize> {
    if points.nrows() <= count {
        return (0..points.nrows()).collect();
    }
    let mut centres = seeded(points, count, rng);
    let mut nearest = Vec::new();
    for _ in 0..ROUNDS {
        let distances = distances(points, centres.view());
        let assigned: Vec<usize> =
            distances.rows().into_iter().map(|row| smallest(row.iter().copied())).collect();
        if assigned == nearest {
            break;
        }
        nearest = assigned;
        centres = means(points, &nearest, &distances, count);
    }
    stand_ins(&distances(points, centres.view()), &nearest)
}

/// Squared distances `[N, K]` of `points` `[N, D]` from `centres` `[K, D]`.
fn distances(points: ArrayView2<f32>, centres: ArrayView2<f32>) -> Array2<f32> {
    let squares = |of: ArrayView2<f32>| of.map_axis(Axis(1), |row| row.dot(&row));
    let products = points.dot(&centres.t());
    let rows = squares(points).insert_axis(Axis(1));
    (products * -2.0 + &rows + squares(centres)).mapv_into(|d| d.max(0.0))
}

/// The index of the smallest of `values`; of equal ones, the first.
fn smallest(values: impl Iterator<Item = f32>) -> usize {
    values.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(place, _)| place)
}

/// k-means++ seeding: draws `count` of the points, each with a probability proportional to its
/// squared distance from the nearest point drawn before.
fn seeded(points: ArrayView2<f32>, count: usize, rng: &mut impl Rng) -> Array2<f32> {
    let mut chosen = vec![rng.random_range(0..points.nrows())];
    let mut left = Array1::from_elem(points.nrows(), f32::INFINITY);
    while chosen.len() < count {
        let last = points.select(Axis(0), &chosen[chosen.len() - 1..]);
        left.zip_mut_with(&distances(points, last.view()).column(0), |left, &new| {
            *left = left.min(new)
        });
        let total: f64 = left.iter().map(|&d| f64::from(d)).sum();
        let mut mark = rng.random::<f64>() * total;
        let drawn = left.iter().position(|&d| {
            mark -= f64::from(d);
            mark < 0.0
        });
        chosen.push(drawn.unwrap_or_else(|| smallest(left.iter().map(|d| -d))));
    }
    points.select(Axis(0), &chosen)
}

/// The mean of each cluster's points. An empty cluster gets the point farthest from its centre.
fn means(
    points: ArrayView2<f32>,
    nearest: &[usize],
    distances: &Array2<f32>,
    count: usize,
) -> Array2<f32> {
    let mut sums = Array2::zeros((count, points.ncols()));
    let mut sizes = vec![0; count];
    for (point, &cluster) in points.rows().into_iter().zip(nearest) {
        sums.row_mut(cluster).scaled_add(1.0, &point);
        sizes[cluster] += 1;
    }
    let mut loneliest: Vec<usize> = (0..nearest.len()).collect();
    loneliest.sort_by(|&a, &b| distances[[a, nearest[a]]].total_cmp(&distances[[b, nearest[b]]]));
    for (mut sum, size) in sums.rows_mut().into_iter().zip(sizes) {
        match (size, loneliest.pop()) {
            (0, Some(point)) => sum.assign(&points.row(point)),
            (size, point) => {
                loneliest.extend(point);
                sum /= size.max(1) as f32;
            }
        }
    }
    sums
}

/// For each cluster, the nearest point that no other cluster has taken. Larger clusters choose
/// first.
fn stand_ins(distances: &Array2<f32>, nearest: &[usize]) -> Vec<usize> {
    let size = |cluster: usize| nearest.iter().filter(|&&n| n == cluster).count();
    let mut clusters: Vec<(usize, usize)> =
        (0..distances.ncols()).map(|cluster| (size(cluster), cluster)).collect();
    clusters.sort_by_key(|&(size, cluster)| (std::cmp::Reverse(size), cluster));
    let mut taken = vec![false; distances.nrows()];
    let stand_in = |(_, cluster): (usize, usize)| {
        let free = |(point, &d): (usize, &f32)| if taken[point] { f32::INFINITY } else { d };
        let point = smallest(distances.column(cluster).iter().enumerate().map(free));
        taken[point] = true;
        point
    };
    clusters.into_iter().map(stand_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use scdd_data::rng;

    #[test]
    fn each_group_of_points_is_stood_for_by_its_middle_one_and_the_larger_comes_first() {
        let points = array![
            [0.0_f32, 0.1],
            [0.0, 0.0],
            [0.0, -0.1],
            [9.0, 9.0],
            [5.0, 0.0],
            [5.2, 0.0],
            [4.8, 0.0],
            [5.0, 0.1]
        ];
        for seed in 0..20 {
            let found = representatives(points.view(), 3, &mut rng::stream(seed, "test", 0));
            assert_eq!(found, [4, 1, 3], "seed {seed}");
        }
    }

    #[test]
    fn equal_points_stand_for_one_cluster_each() {
        let points = Array2::<f32>::ones((5, 3));
        let mut found = representatives(points.view(), 4, &mut rng::stream(1, "test", 0));
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 4);
        assert_eq!(
            representatives(points.view(), 7, &mut rng::stream(1, "test", 0)),
            [0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn clusters_lower_the_squared_error_below_that_of_random_points() {
        use rand_distr::{Distribution, StandardNormal};
        let mut stream = rng::stream(3, "test", 0);
        let points = Array2::from_shape_simple_fn((300, 4), || {
            Distribution::<f32>::sample(&StandardNormal, &mut stream)
        });
        let error = |chosen: &[usize]| -> f32 {
            let centres = points.select(Axis(0), chosen);
            distances(points.view(), centres.view())
                .rows()
                .into_iter()
                .map(|row| row.fold(f32::MAX, |a, &b| a.min(b)))
                .sum()
        };
        let found = representatives(points.view(), 12, &mut stream);
        let random: Vec<usize> = (0..12).collect();
        assert!(error(&found) < 0.85 * error(&random), "{} {}", error(&found), error(&random));
    }
}
