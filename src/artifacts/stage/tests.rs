use super::store::FILLING;
use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const QUIET: Tell = &|_| {};

fn stage(iterations: u32) -> Stage {
    let inputs = BTreeMap::from([("teacher".to_string(), "ab12".to_string())]);
    Stage::new(
        "recover",
        1,
        "net a/ipc10",
        &json!({"r_bn": 0.1, "iterations": iterations}),
        inputs,
        3,
    )
    .unwrap()
}

impl StageStore {
    /// Makes the stage, as soon as no other does.
    fn make<E: From<StageError>>(
        &self,
        work: impl FnOnce(&WorkDir) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let mut work = Some(work);
        loop {
            let once = |directory: &WorkDir| work.take().unwrap()(directory);
            match self.attempt(&stage(5), QUIET, once)? {
                Attempt::Complete(directory) => return Ok(directory),
                Attempt::Elsewhere(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

fn failure() -> StageError {
    StageError::Mismatch { directory: "x".into(), difference: "stopped on purpose".into() }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let list = entries(directory).unwrap().into_iter().filter(|(path, _)| name(path) != TIMING);
    list.map(|(path, _)| (name(&path), fs::read(&path).unwrap())).collect()
}

#[test]
fn the_key_depends_on_content_and_not_on_the_order_of_keys() {
    let other = |config: Value, seed| {
        Stage::new("recover", 1, "n", &config, BTreeMap::new(), seed).unwrap().key()
    };
    assert_eq!(
        other(json!({"a": 1, "b": {"c": 1, "d": 2}}), 0),
        other(json!({"b": {"d": 2, "c": 1}, "a": 1}), 0)
    );
    assert_ne!(other(json!({"a": 1}), 0), other(json!({"a": 2}), 0));
    assert_ne!(other(json!({"a": 1}), 0), other(json!({"a": 1}), 1));
    assert_ne!(stage(5).key(), stage(6).key());
    assert!(stage(5).directory_name().starts_with("net-a-ipc10-"));
}

#[test]
fn complete_work_is_not_done_again() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path().join("deep/store"));
    assert_eq!(store.find(&stage(5)).unwrap(), None);
    let make = |work: &WorkDir| work.write("images/0.png", b"x").map(|_| ());
    let first = store.make(make).unwrap();
    let second = store.make(|_| Err(failure())).unwrap();
    assert_eq!((&first, Some(&first)), (&second, store.find(&stage(5)).unwrap().as_ref()));
    assert_eq!(fs::read(first.join("images/0.png")).unwrap(), b"x");
    let timing = Timing::read(&first).unwrap();
    assert!(timing.seconds >= 0.0 && !timing.resumed);
}

#[test]
fn an_interrupted_stage_is_continued_and_ends_in_the_same_bytes() {
    let (root, quiet) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = StageStore::new(root.path());
    let shards = |work: &WorkDir, upto: usize| {
        let missing: Vec<usize> = (0..upto).filter(|i| !work.has(format!("shard-{i}"))).collect();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let write =
            |i: &usize| work.write_last_of_part(format!("shard-{i}"), &[*i as u8]).map(|_| ());
        missing.iter().try_for_each(write)?;
        Ok::<_, StageError>(missing)
    };
    store.make(|work| shards(work, 2).and(Err(failure()))).unwrap_err();
    let partial = PathBuf::from(format!("{}.partial", store.path(&stage(5)).display()));
    fs::write(partial.join(".scdd-tmp-torn"), b"half a shard").unwrap();
    let before = Timing::read(&partial).unwrap().seconds;
    assert!(before >= 0.02, "{before}");

    let mut made = Vec::new();
    let work = |work: &WorkDir| {
        assert!(work.resumed());
        made = shards(work, 4)?;
        Ok::<_, StageError>(())
    };
    let started = Instant::now();
    let resumed = store.make(work).unwrap();
    let elapsed = started.elapsed().as_secs_f64();
    assert_eq!(made, [2, 3]);
    let timing = Timing::read(&resumed).unwrap();
    assert!(timing.resumed && !partial.exists());
    assert!(
        (before + 0.02..=before + elapsed).contains(&timing.seconds),
        "{before} {elapsed} {timing:?}"
    );
    let undisturbed =
        StageStore::new(quiet.path()).make(|work| shards(work, 4).map(|_| ())).unwrap();
    assert_eq!(files(&resumed), files(&undisturbed));
}

#[test]
fn a_killed_process_keeps_what_it_committed_and_frees_its_lock() {
    const ROOT: &str = "SCDD_TEST_STAGE_ROOT";
    // The child process: this same test, which the variable tells to commit one shard and hang.
    if let Some(root) = std::env::var_os(ROOT) {
        let hang = |work: &WorkDir| -> Result<(), StageError> {
            work.write("shard-0", b"0")?;
            loop {
                std::thread::park();
            }
        };
        StageStore::new(root).make(hang).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    let this = "stage::tests::a_killed_process_keeps_what_it_committed_and_frees_its_lock";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let command =
        command.args(["--exact", this]).env(ROOT, root.path()).stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let shard = PathBuf::from(format!("{}.partial/shard-0", store.path(&stage(5)).display()));
    while !shard.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "the child ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let work = |work: &WorkDir| {
        assert!(work.resumed() && work.has("shard-0"));
        work.write("shard-1", b"1").map(|_| ())
    };
    let names: Vec<String> = files(&store.make(work).unwrap()).into_keys().collect();
    assert_eq!(names, ["contents.json", "shard-0", "shard-1", RECORD]);
}

#[test]
fn a_partial_of_other_work_is_discarded() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    let partial = PathBuf::from(format!("{}.partial", store.path(&stage(5)).display()));
    write_atomic(&partial.join(RECORD), &stage(6).record_file()).unwrap();
    write_atomic(&partial.join("shard-0"), b"old").unwrap();
    let work = |work: &WorkDir| {
        assert!(!work.has("shard-0") && !work.resumed());
        Ok::<_, StageError>(())
    };
    store.make(work).unwrap();
}

#[test]
fn a_directory_that_is_filled_again_keeps_nothing_half_written() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("report");
    let fill = |bytes: &'static [u8]| {
        super::fill(&home, QUIET, |home| write_atomic(&home.join("page"), bytes))
    };
    fill(b"old").unwrap();
    fs::write(home.join(".scdd-tmp-torn"), b"half a page").unwrap();
    fill(b"new").unwrap();
    let lock = (FILLING.to_string(), Vec::new());
    assert_eq!(files(&home), BTreeMap::from([("page".to_string(), b"new".to_vec()), lock]));
}

#[test]
fn a_failure_before_anything_was_written_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    StageStore::new(root.path()).make(|_| Err(failure())).unwrap_err();
    assert_eq!(fs::read_dir(root.path().join("recover")).unwrap().count(), 0);
}

#[test]
fn states_are_told_apart_and_removal_spares_what_is_being_made() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    assert!(store.all().unwrap().is_empty());
    assert_eq!(store.state(&stage(5)).unwrap(), State::Missing);
    let inside = |work: &WorkDir| {
        work.write("shard-0", b"12345")?;
        assert_eq!(store.state(&stage(5)).unwrap(), State::Running);
        assert!(!store.remove(work.path()).unwrap());
        Err(failure())
    };
    store.make(inside).unwrap_err();
    assert_eq!(store.state(&stage(5)).unwrap(), State::Interrupted);
    let [(kind, partial)] = store.all().unwrap().try_into().unwrap();
    assert_eq!(
        (kind.as_str(), StageStore::final_name(&partial)),
        ("recover", store.path(&stage(5)))
    );
    let complete = store.make(|_| Ok::<_, StageError>(())).unwrap();
    assert_eq!(store.state(&stage(5)).unwrap(), State::Complete);
    assert_eq!(Stage::network_in(&complete).unwrap(), "ab12");
    assert!(bytes_in(&complete).unwrap() > 5);
    assert!(store.remove(&complete).unwrap());
    assert!(!store.remove(&complete).unwrap(), "is gone");
    assert_eq!(store.state(&stage(5)).unwrap(), State::Missing);
    assert_eq!(
        entries(root.path()).unwrap().len(),
        2,
        "only the locks and the kind's directory are left"
    );
}

#[test]
fn a_directory_that_holds_something_else_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    let directory = store.path(&stage(5));
    write_atomic(&directory.join(RECORD), &stage(6).record_file()).unwrap();
    let error = store.make(|_| Err(failure())).unwrap_err().to_string();
    assert!(error.contains("stage.json has config.iterations = 6, expected 5"), "{error}");
    fs::remove_file(directory.join(RECORD)).unwrap();
    let error = store.find(&stage(5)).unwrap_err().to_string();
    assert!(error.contains("no readable stage.json"), "{error}");
}

#[test]
fn two_at_once_do_the_work_once() {
    let root = tempfile::tempdir().unwrap();
    let (count, barrier) = (AtomicUsize::new(0), Barrier::new(4));
    let run = || {
        barrier.wait();
        StageStore::new(root.path()).make(|work| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(50));
            work.write("done", b"").map(|_| ())
        })
    };
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(paths.iter().all(|path| *path == paths[0]));
}

#[test]
fn helpers_share_the_parts_and_their_time_counts() {
    let root = tempfile::tempdir().unwrap();
    let (store, other) = (StageStore::new(root.path()), StageStore::new(root.path()));
    assert!(other.join(&stage(5)).is_none(), "there is nothing to help");
    let mut parts = PathBuf::new();
    let made = store.make(|work| {
        let helper = other.join(&stage(5)).unwrap();
        assert!(matches!(
            other.attempt(&stage(5), QUIET, |_| Err(failure()))?,
            Attempt::Elsewhere(_)
        ));
        let taken = helper.take("0")?.unwrap();
        assert!(work.take("0")?.is_none() && work.take("1")?.is_some());
        std::thread::sleep(Duration::from_millis(20));
        helper.write_last_of_part("part-0", b"0")?;
        let under_way = partial_name(&store.path(&stage(5)));
        assert!(other.is_being_made(&store.path(&stage(5)))?);
        assert!(!other.remove(&under_way)?, "somebody is at it");
        drop(taken);
        assert!(work.take("0")?.is_some() && work.has("part-0"));
        parts.clone_from(&work.parts);
        Ok::<_, StageError>(())
    });
    let made = made.unwrap();
    let timing = Timing::read(&made).unwrap();
    assert!(timing.seconds >= 0.03, "20 ms of each of the two: {timing:?}");
    assert!(!parts.exists());
    assert_eq!(files(&made).keys().collect::<Vec<_>>(), ["contents.json", "part-0", "stage.json"]);
    let mut late = WorkDir::open(&made.join("x"), &stage(5), parts, store.begin()).unwrap();
    (late.path, late.helps) = (partial_name(&made), true);
    assert!(!late.is_under_way() && late.take("0").unwrap().is_none());
}

#[test]
fn parts_that_several_processes_made_wait_for_the_attempt_that_completes_the_stage() {
    let root = tempfile::tempdir().unwrap();
    let on = |device: &str| {
        let [device, precision, libraries] = [device, "TF32", "1"].map(str::to_owned);
        StageStore::new(root.path()).computing_on(ComputedOn { device, precision, libraries })
    };
    let share = |store: &StageStore| match store.share(&stage(5), QUIET).unwrap() {
        Share::Open(work) => *work,
        other => panic!("{other:?}"),
    };
    let (one, other) = (share(&on("cpu")), share(&on("cpu")));
    for (work, part) in [(&one, "0"), (&other, "1")] {
        work.goes_on_here().unwrap();
        let _taken = work.take(part).unwrap().unwrap();
        work.write_last_of_part(format!("part-{part}"), b"x").unwrap();
    }
    assert!(one.has("part-1") && one.is_under_way());
    let elsewhere = share(&on("cuda:0 (A)")).goes_on_here().unwrap_err().to_string();
    assert!(elsewhere.contains("begun on cpu in TF32"), "{elsewhere}");
    let attempt = on("cpu").attempt(&stage(5), QUIET, |work| {
        assert!(matches!(on("cpu").share(&stage(5), QUIET)?, Share::Open(_)), "it may help");
        assert!(work.resumed() && work.has("part-0") && work.has("part-1"));
        Ok::<_, StageError>(())
    });
    assert!(matches!(attempt, Ok(Attempt::Complete(_))));
    assert!(!one.is_under_way());
    one.goes_on_here().unwrap();
    assert!(matches!(on("cpu").share(&stage(5), QUIET).unwrap(), Share::Complete));
}

#[test]
fn an_unusable_root_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let error =
        StageStore::new(file.join("store")).make(|_| Err(failure())).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot create the directory ") && error.ends_with("should be"),
        "{error}"
    );
    let error = write_atomic(&file.join("x"), b"").unwrap_err().to_string();
    assert!(error.contains("a file is where a directory should be"), "{error}");
    let full = io_error("write", Path::new("x"))(ErrorKind::StorageFull.into()).to_string();
    assert!(full.ends_with("free some space and run again: finished work is kept"), "{full}");
}

#[test]
fn a_stage_goes_on_where_it_was_begun() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    let on = |device: &str, libraries: &str| {
        let [device, precision, libraries] = [device, "TF32", libraries].map(str::to_owned);
        store.computing_on(ComputedOn { device, precision, libraries })
    };
    let attempt = |store: &StageStore, fails: bool| {
        store.attempt(&stage(7), &|_| (), |work| {
            work.goes_on_here()?;
            work.write_last_of_part("part", b"x")?;
            if fails { Err(failure()) } else { Ok(()) }
        })
    };
    attempt(&on("cuda:0 (A)", "1"), true).unwrap_err();
    let refused = attempt(&on("cpu", "1"), false).unwrap_err().to_string();
    let expected = ".partial was begun on cuda:0 (A) in TF32, but this run computes on cpu in TF32: run there again, or remove the directory to begin anew";
    assert!(refused.ends_with(expected), "{refused}");
    let Ok(Attempt::Complete(made)) = attempt(&on("cuda:0 (A)", "2"), false) else {
        panic!("a newer library is no other device")
    };
    let on = Timing::read(&made).unwrap().computed_on.unwrap();
    assert_eq!((&on.device[..], &on.libraries[..]), ("cuda:0 (A)", "2"));
}

#[test]
fn what_computed_a_stage_is_kept_when_nothing_is_left_to_compute() {
    let root = tempfile::tempdir().unwrap();
    let store = StageStore::new(root.path());
    let [device, precision, libraries] = ["cuda:0 (A)", "TF32", "1"].map(str::to_owned);
    let begun = store.computing_on(ComputedOn { device, precision, libraries });
    let attempt = |store: &StageStore, fails: bool| {
        store.attempt(&stage(7), &|_| (), |work| {
            work.write_last_of_part("part", b"x")?;
            if fails { Err(failure()) } else { Ok(()) }
        })
    };
    attempt(&begun, true).unwrap_err();
    let Ok(Attempt::Complete(made)) = attempt(&store, false) else { panic!("it is not complete") };
    assert_eq!(Timing::read(&made).unwrap().computed_on.unwrap().device, "cuda:0 (A)");
}
