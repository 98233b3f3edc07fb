//! The report's page in a real browser, with a hundred rows: sorting, filters, enlarged images.

mod common;

use std::path::Path;

use common::browser::{Browser, find};
use scdd::report::{Cost, Grid, Labels, Results, Row, TrainPoint, write};
use serde_json::json;

/// Two students, sizes of 1, 10 and 50 images per class, eight methods and random real images, soft
/// and hard labels: 108 rows.
fn results(root: &Path) -> Results {
    let mut results = Results {
        name: "everything".into(),
        data: "made up".into(),
        classes: ["shirt", "shoe", "bag"].map(String::from).into(),
        test_images: 1000,
        experiment: "name: everything\n".into(),
        ..Results::default()
    };
    let methods = (0..8).map(|n| (format!("method-{n}"), Some("teacher".to_owned())));
    let methods: Vec<_> = methods.chain([("random_real".into(), None)]).collect();
    for (number, (method, teacher)) in methods.iter().enumerate() {
        for ipc in [1, 10, 50] {
            for student in ["convnet", "resnet"] {
                for labels in [Labels::Soft, Labels::Hard] {
                    let last = 0.3 + 0.01 * number as f64 + 0.002 * f64::from(ipc);
                    results.rows.push(row(method, teacher, student, ipc, labels, last));
                }
            }
            let folder = root.join(format!("{method}-{ipc}"));
            grid(&folder, number as u8);
            let (method, teacher) = (method.clone(), teacher.clone());
            let data_free = teacher.is_some();
            results.grids.push(Grid { method, data_free, teacher, ipc, seed: 0, folder });
        }
    }
    results
}

fn row(
    method: &str,
    teacher: &Option<String>,
    student: &str,
    ipc: u32,
    labels: Labels,
    last: f64,
) -> Row {
    let point = |epoch| TrainPoint { epoch, train_loss: 1.0, test_accuracy: Some(last) };
    Row {
        method: method.into(),
        data_free: teacher.is_some(),
        teacher: teacher.clone(),
        relabel_teacher: (labels == Labels::Soft).then(|| "teacher".into()),
        student: student.into(),
        ipc,
        labels,
        protocol: "default".into(),
        augmented: true,
        seed: 0,
        last_accuracy: last,
        best_accuracy: last,
        last_top5: None,
        label_probability: None,
        images: u64::from(ipc) * 3,
        recovered: None,
        label_bytes: None,
        cost: Cost::default(),
        curve: [1, 2, 3].map(point).into(),
    }
}

/// Two grey images of each of three classes.
fn grid(folder: &Path, shade: u8) {
    for class in 0..3u8 {
        let directory = folder.join(class.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        for image in 0..2u8 {
            let pixels: Vec<u8> = (0..64).map(|p| shade * 20 + class * 9 + image + p).collect();
            let png = scdd::data::png::encode(&pixels, 1, 8, 8).unwrap();
            std::fs::write(directory.join(format!("{image:05}.png")), png).unwrap();
        }
    }
}

/// The page in a window of this width; `None` without a browser.
fn open(root: &Path, width: u32) -> Option<Browser> {
    let program = find()?;
    let page = write(&results(root), &root.join("out")).unwrap();
    Some(Browser::open(program, &page, width))
}

const ROWS: &str = "[...document.querySelectorAll('tr[data-line]')]";

#[test]
fn a_table_sorts_by_its_headings() {
    let root = tempfile::tempdir().unwrap();
    let Some(mut browser) = open(root.path(), 1400) else { return };
    let table = "document.querySelector('#table-1 table')";
    let order =
        format!("[...{table}.tBodies[0].rows].slice(0, 2).map((r) => r.cells[0].dataset.value)");
    let heading = format!("{table}.tHead.rows[0].cells[2]");
    assert_eq!(browser.value(&format!("{heading}.ariaSort")), "none");
    // A focused heading is pressed by the keyboard.
    browser.value(&format!("{heading}.querySelector('button').focus()"));
    browser.press("Enter");
    assert_eq!(browser.value(&format!("{heading}.ariaSort")), "descending");
    assert_eq!(browser.value(&order), json!(["random real", "random real"]));
    browser.value(&format!("{heading}.querySelector('button').click()"));
    assert_eq!(browser.value(&format!("{heading}.ariaSort")), "ascending");
    assert_eq!(browser.value(&order), json!(["method-0 from teacher", "method-0 from teacher"]));
    let labels = format!("{table}.tHead.rows[0].cells[1]");
    browser.value(&format!("{labels}.querySelector('button').click()"));
    let states = format!("[{heading}.ariaSort, {labels}.ariaSort]");
    assert_eq!(browser.value(&states), json!(["none", "ascending"]));
    // Without a difference a row is last, whichever way the others are.
    let differences = format!("{table}.tHead.rows[0].cells[5].querySelector('button')");
    let last = format!("[...{table}.tBodies[0].rows].at(-1).cells[5].textContent");
    for _ in 0..2 {
        browser.value(&format!("{differences}.click()"));
        assert_eq!(browser.value(&last), "–");
    }
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}

#[test]
fn filters_hide_rows_tables_lines_and_images() {
    let root = tempfile::tempdir().unwrap();
    let Some(mut browser) = open(root.path(), 1400) else { return };
    let seen = format!("{ROWS}.filter((row) => row.checkVisibility()).length");
    let said = "document.querySelector('.filters output').textContent";
    assert_eq!((browser.value(&seen), browser.value(said)), (108.into(), "108 of 108 rows".into()));
    let choose = |name: &str, value: &str| {
        format!(
            "{{ const field = document.querySelector('.filters [name={name}]'); field.value = '{value}'; \
             field.dispatchEvent(new Event('input', {{bubbles: true}})); }}"
        )
    };
    browser.value(&choose("ipc", "10"));
    assert_eq!(browser.value(&seen), 36);
    browser.value(&choose("labels", "soft"));
    browser.value(&choose("student", "resnet"));
    assert_eq!((browser.value(&seen), browser.value(said)), (9.into(), "9 of 108 rows".into()));
    let visible = |what: &str| {
        format!(
            "[...document.querySelectorAll('{what}')].filter((e) => !e.closest('[hidden]')).length"
        )
    };
    let shown = "getComputedStyle(document.querySelector('.figures g[hidden]')).display";
    assert_eq!(browser.value(shown), "none");
    assert_eq!(browser.value(&visible("section[data-student]")), 1);
    assert_eq!(browser.value(&visible(".figures g[data-line]")), 2 * 9, "accuracy and loss");
    assert_eq!(browser.value(&visible("#images details")), 9);
    browser.value(&choose("find", "method-3 random"));
    assert_eq!(browser.value(&seen), 0, "every word must be there");
    browser.value(&choose("find", "METHOD-3"));
    assert_eq!(browser.value(&seen), 1);
    let reset =
        "document.querySelector('.filters').reset(), new Promise((done) => setTimeout(done, 9))";
    browser.value(reset);
    assert_eq!(browser.value(&seen), 108);
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}

#[test]
fn images_open_by_mouse_and_keyboard() {
    let root = tempfile::tempdir().unwrap();
    let Some(mut browser) = open(root.path(), 800) else { return };
    let (is_open, caption) = (
        "document.querySelector('dialog').open",
        "document.querySelector('dialog figcaption').textContent",
    );
    browser.value("document.querySelector('#images img').click()");
    assert_eq!(browser.value(is_open), true);
    assert_eq!(
        browser.value(caption),
        "method-0 from teacher, 1 per class, seed 0: shirt, image 1"
    );
    browser.press("Escape");
    assert_eq!(browser.value(is_open), false);
    // The focus is where it was; the arrows move it, and go on in the enlarged view.
    browser.press("ArrowRight");
    browser.press("Enter");
    assert_eq!(browser.value(is_open), true);
    browser.press("ArrowRight");
    let shown = browser.value(caption).as_str().unwrap().to_owned();
    assert!(shown.ends_with(": shoe, image 1"), "{shown}");
    let same = "document.querySelector('dialog img').src === document.querySelectorAll('#images img')[2].src";
    assert_eq!(browser.value(same), true);
    browser.value("document.querySelector('dialog .close').click()");
    assert_eq!(browser.value(is_open), false);
    // A grid is one stop on the way through the page.
    let stops = "[...document.querySelectorAll('#images .gallery')].every((g) => g.querySelectorAll('[tabindex=\"0\"]').length === 1)";
    assert_eq!(browser.value(stops), true);
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}

#[test]
fn nothing_is_wider_than_the_window() {
    let root = tempfile::tempdir().unwrap();
    let Some(mut browser) = open(root.path(), 400) else { return };
    for width in [1400, 800, 400] {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        browser.ask("Emulation.setDeviceMetricsOverride", size);
        let widest = browser.value("document.documentElement.scrollWidth");
        assert!(widest.as_u64().unwrap() <= width, "{widest} at {width}");
    }
    assert!(browser.errors.is_empty(), "{:?}", browser.errors);
}
