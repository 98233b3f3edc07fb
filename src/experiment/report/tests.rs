use std::fs;

use super::*;
use crate::config::real_rows::WHOLE_REAL;
use scdd_artifacts::records::GradientNorms;

/// A grey square whose brightness encodes its class and index.
fn png(path: &Path, class: usize, index: usize) {
    let pixel =
        |x: u32, y: u32| image::Luma([((class * 25) as u32 + x * y / 4 + index as u32 * 9) as u8]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::GrayImage::from_fn(28, 28, pixel).save(path).unwrap();
}

fn folder(root: &Path, name: &str) -> PathBuf {
    for class in 0..10 {
        for index in 0..10 {
            png(&root.join(format!("{name}/{class}/{index:05}.png")), class, index);
        }
    }
    root.join(name)
}

fn timing(seconds: f64) -> Timing {
    Timing {
        seconds,
        resumed: false,
        passes: Some(1000),
        peak_bytes: Some(300 << 20),
        computed_on: None,
    }
}

fn row(teacher: Option<&str>, relabel: Option<&str>, seed: u64, last: f64) -> Row {
    let point = |epoch: u32| TrainPoint {
        epoch,
        train_loss: 2.0 / f64::from(epoch) * if relabel.is_some() { 0.01 } else { 1.0 },
        test_accuracy: epoch
            .is_multiple_of(10)
            .then(|| last * (1.0 - (-f64::from(epoch) / 40.0).exp())),
    };
    Row {
        method: if teacher.is_some() { "distilled" } else { "random_real" }.to_string(),
        data_free: teacher.is_some(),
        teacher: teacher.map(str::to_string),
        relabel_teacher: relabel.map(str::to_string),
        student: "convnet3-w128".to_string(),
        ipc: 10,
        labels: if relabel.is_some() { Labels::Soft } else { Labels::Hard },
        protocol: "default".to_string(),
        augmented: true,
        seed,
        last_accuracy: last,
        best_accuracy: last + 0.01,
        last_top5: Some(1.0 - (1.0 - last) / 10.0),
        label_probability: relabel.map(|_| 0.93),
        images: 100,
        recovered: None,
        label_bytes: relabel.map(|_| 120_000),
        cost: Cost {
            recover: teacher.map(|_| timing(64.2)),
            relabel: relabel.map(|_| timing(9.5)),
            validate: Some(timing(31.0 + seed as f64)),
        },
        curve: (1..=300).map(point).collect(),
    }
}

pub(super) fn sample(root: &Path) -> Results {
    let (sup, moco) = ("resnet10-w16-supervised", "resnet10-w16-moco-v2");
    let mut results = Results {
        name: "quickstart".to_string(),
        data: "Fashion-MNIST <test>".to_string(),
        classes: [
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ]
        .map(str::to_string)
        .to_vec(),
        test_images: 10_000,
        experiment: "name: quickstart\nipc:\n- 10\n".to_string(),
        ..Results::default()
    };
    for seed in [1, 0] {
        let drift = seed as f64 * 0.006;
        for (teacher, lift) in [(sup, 0.0), (moco, -0.04)] {
            results.rows.push(row(Some(teacher), Some(teacher), seed, 0.741 + lift + drift));
            results.rows.push(row(None, Some(teacher), seed, 0.812 + lift / 2.0 - drift));
            let curve = (0..=300).step_by(5).map(|iteration| {
                let bn = 180.0 * (-f64::from(iteration) / 70.0).exp() + 6.0 + drift * 100.0;
                let ce = 3.0 * (-f64::from(iteration) / 25.0).exp() + 0.004;
                RecoverPoint { iteration, loss: ce + 0.01 * bn, ce, bn }
            });
            let method = "distilled".to_string();
            results.recoveries.push(Recovery {
                method: method.clone(),
                teacher: teacher.to_string(),
                ipc: 10,
                seed,
                curve: curve.collect(),
                balance: Some(TermBalance {
                    start: GradientNorms { ce: 1.0, bn: 1.0 },
                    end: GradientNorms { ce: 0.01, bn: 3.12 },
                }),
                verified: vec![],
            });
            let folder = folder(root, &format!("{teacher}-{seed}"));
            results.grids.push(Grid {
                method,
                data_free: true,
                teacher: Some(teacher.to_string()),
                ipc: 10,
                seed,
                folder,
            });
        }
        results.rows.push(row(None, None, seed, 0.702 + drift));
        let folder = folder(root, &format!("real-{seed}"));
        results.grids.push(Grid {
            method: "random_real".to_string(),
            data_free: false,
            teacher: None,
            ipc: 10,
            seed,
            folder,
        });
    }
    results
}

#[test]
fn summaries_are_over_seeds_and_differences_are_paired() {
    let root = tempfile::tempdir().unwrap();
    let all = summaries(&sample(root.path()).rows);
    assert_eq!(all.len(), 5);
    let moco = &all[0];
    assert_eq!(
        (moco.teacher.as_deref(), moco.seeds.as_slice()),
        (Some("resnet10-w16-moco-v2"), [0, 1].as_slice())
    );
    assert!(
        (moco.last.mean - 0.704).abs() < 1e-9
            && (moco.last.std.unwrap() - 0.006 / 2f64.sqrt()).abs() < 1e-9
    );
    let difference = moco.versus_random_real.unwrap();
    assert_eq!(difference.seeds, 2);
    assert!(
        (difference.stat.mean + 0.085).abs() < 1e-9
            && (difference.stat.std.unwrap() - 0.012 / 2f64.sqrt()).abs() < 1e-9
    );
    // scipy.stats.t.interval(0.95, 1, -0.085, 0.006): with two seeds the interval is 12.7 standard
    // errors wide on each side.
    let [low, high] = difference.interval.unwrap();
    assert!((low + 0.161237).abs() < 1e-6 && (high + 0.008763).abs() < 1e-6, "{low} {high}");
    assert!(
        all[2..]
            .iter()
            .all(|baseline| !baseline.data_free && baseline.versus_random_real.is_none())
    );
}

#[test]
fn the_terminal_compares_with_the_best_row_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut results = sample(root.path());
    let swav = Some("resnet10-w16-swav");
    results.rows.extend([0, 1].map(|seed| row(swav, swav, seed, 0.6)));
    assert_eq!(comparisons(&results.rows).len(), 3);
    let text = table(&results);
    let against: Vec<&str> = text.lines().filter(|line| line.contains("against")).collect();
    assert_eq!(against.len(), 2);
    assert!(against.iter().all(|line| line.contains("from resnet10-w16-supervised")), "{text}");
}

#[test]
fn distilled_rows_are_compared_with_each_other_and_ranked() {
    let root = tempfile::tempdir().unwrap();
    let mut rows = sample(root.path()).rows;
    let [comparison] = comparisons(&rows).try_into().unwrap();
    assert!(comparison.rows[0].contains("moco") && comparison.rows[1].contains("supervised"));
    assert!(
        (comparison.difference.stat.mean + 0.04).abs() < 1e-9 && comparison.difference.seeds == 2
    );

    let sup = Some("resnet10-w16-supervised");
    let with = |labels, protocol: &str, augmented, last, template: Row| Row {
        labels,
        relabel_teacher: template.relabel_teacher.filter(|_| labels == Labels::Soft),
        protocol: protocol.to_string(),
        augmented,
        last_accuracy: last,
        ..template
    };
    for seed in [0, 1] {
        // The same images with hard labels, and under a protocol without augmentation, with random
        // real images beside them; and the whole training set.
        rows.push(with(Labels::Hard, "default", true, 0.6, row(sup, sup, seed, 0.0)));
        rows.push(with(Labels::Soft, "plain", false, 0.70, row(sup, sup, seed, 0.0)));
        rows.push(with(Labels::Soft, "plain", false, 0.65, row(None, sup, seed, 0.0)));
        rows.push(Row { method: WHOLE_REAL.to_string(), ipc: 6000, ..row(None, None, seed, 0.9) });
    }
    let all = summaries(&rows);
    let of = |protocol: &str| {
        let supervised = |s: &&Summary| s.teacher.as_deref() == sup && s.labels == Labels::Soft;
        all.iter().filter(supervised).find(|s| s.protocol == protocol).unwrap().ranking.unwrap()
    };
    let ranking = of("default");
    // Means: soft 0.744, random real soft 0.809, hard 0.6, whole 0.9.
    let close = |found: Option<f64>, expected: f64| {
        assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} {expected}")
    };
    close(Some(ranking.ior), -0.065);
    close(ranking.hlr, 0.3);
    close(ranking.lrs, ((-0.1825f64).exp() - (-1f64).exp()) / (1f64.exp() - (-1f64).exp()));
    close(ranking.ars, ((-0.0075f64).exp() - (-1f64).exp()) / (1f64.exp() - (-1f64).exp()));
    assert_eq!(ranking.hard.unwrap().mean, 0.6);
    assert_eq!((of("plain").hard, of("plain").hlr, of("plain").ars), (None, None, None));
}

#[test]
fn a_single_seed_has_no_spread() {
    let rows = [row(Some("t"), Some("t"), 0, 0.5), row(None, Some("t"), 1, 0.6)];
    let all = summaries(&rows);
    assert_eq!((all[0].last.std, all[0].versus_random_real), (None, None));
}

#[test]
fn the_terminal_table_is_aligned() {
    let root = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(table(&sample(root.path())));
}

#[test]
fn the_report_is_self_contained_escaped_and_the_same_every_time() {
    let root = tempfile::tempdir().unwrap();
    let mut results = sample(root.path());
    let out = root.path().join("out");
    let page = fs::read_to_string(write(&results, &out).unwrap()).unwrap();
    assert_eq!(page.matches("<img alt=\"").count(), 6 * 100 + 3 * 10 + 1, "grids, glance, dialog");
    assert_eq!(page.matches("<figure class=\"card\"").count(), 4);
    assert!(page.contains("Fashion-MNIST &lt;test&gt;"));
    for outside in ["http:", "https:", "src=\"/", "@import", "<script src", "<link", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("1.0 : 1") && page.contains("1 : 312") && page.contains("top-5 97.0"));
    assert!(!page.contains("out of balance"), "cross entropy has fallen");
    results.rows.reverse();
    results.grids.reverse();
    results.recoveries.reverse();
    let again = root.path().join("again");
    write(&results, &again).unwrap();
    for file in ["report.html", "results.json", "results.csv", "timing.json"] {
        assert_eq!(
            fs::read(out.join(file)).unwrap(),
            fs::read(again.join(file)).unwrap(),
            "{file}"
        );
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
}

#[test]
fn machine_files_hold_every_row_and_no_times() {
    let root = tempfile::tempdir().unwrap();
    write(&sample(root.path()), root.path()).unwrap();
    let csv = fs::read_to_string(root.path().join("results.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 11);
    assert_eq!(
        lines[1],
        "distilled,true,resnet10-w16-moco-v2,resnet10-w16-moco-v2,convnet3-w128,10,soft,default,0,0.701,0.711,120000,0.9701,0.93"
    );
    assert_eq!(
        lines[9],
        "random_real,false,,,convnet3-w128,10,hard,default,0,0.702,0.712,,0.9702,"
    );
    let json = fs::read_to_string(root.path().join("results.json")).unwrap();
    assert!(!json.contains("seconds") && !json.contains(&*root.path().to_string_lossy()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["results"]["rows"].as_array().unwrap().len(), 10);
    assert_eq!(json["summaries"][4]["labels"], "hard");
}

#[test]
fn missing_images_are_named() {
    let root = tempfile::tempdir().unwrap();
    let mut results = sample(root.path());
    results.grids[0].folder = root.path().join("nowhere");
    let error = write(&results, &root.path().join("out")).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read the images in ") && error.contains("nowhere"),
        "{error}"
    );
    assert!(!root.path().join("out").exists());
}

#[test]
fn an_experiment_without_results_still_has_a_page() {
    let root = tempfile::tempdir().unwrap();
    write(&Results::default(), root.path()).unwrap();
}
