//! The real data of experiments. Reading and hashing images takes longer than everything else
//! in listing stages, so what it gives is remembered, and pixels are read only where a stage needs
//! them.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::{DataConfig, DataKind};
use scdd_artifacts::remembered;
use scdd_data::{DataError, Dataset, Fit, Source, Split};

use super::RunError;

/// What is known of a split without its pixels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// What the data set is called.
    pub name: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// The number of images of each class.
    pub counts: Vec<u64>,
    /// `[channels, height, width]`.
    pub shape: [usize; 3],
    /// BLAKE3 of pixels and labels, 64 hex digits.
    pub hash: String,
    /// Notes for the user about data that are odd but not wrong.
    remarks: Vec<String>,
}

impl SplitSummary {
    fn of(set: &Dataset, remarks: Vec<String>) -> Self {
        let mut counts = vec![0; set.classes.len()];
        // Labels are below the number of classes.
        set.labels.iter().for_each(|&label| counts[label as usize] += 1);
        Self {
            name: set.name.clone(),
            classes: set.classes.clone(),
            counts,
            shape: [set.channels, set.height, set.width],
            hash: data_hash(set),
            remarks,
        }
    }

    /// The number of images.
    pub fn images(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A split of real data. Its pixels are read when a stage asks for them, and stay in memory.
pub struct RealSplit {
    pub summary: SplitSummary,
    source: Source,
    split: Split,
    fit: Fit,
    /// Its name among what is [`remembered`].
    name: Option<String>,
    set: OnceLock<Dataset>,
    /// Locked while the pixels are read.
    reading: Mutex<()>,
}

/// What is remembered of a split.
#[derive(Serialize, Deserialize)]
struct RememberedSplit {
    state: String,
    /// The program that read it.
    program: String,
    summary: SplitSummary,
}

/// Readers of other versions may give other pixels.
const PROGRAM: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");

impl RealSplit {
    /// Opens one split. Its images are read now, unless an earlier run read the same files.
    fn open(source: &Source, split: Split, fit: Fit) -> Result<Self, DataError> {
        let signature = source.signature(split, fit);
        let name = signature.as_ref().map(|signature| format!("splits/{}", signature.name));
        let known = name.as_deref().and_then(remembered::read::<RememberedSplit>);
        let known = known.filter(|known| {
            known.program == PROGRAM
                && signature.as_ref().is_some_and(|signature| signature.state == known.state)
        });
        let make = |summary, set| Self {
            summary,
            source: source.clone(),
            split,
            fit,
            name: name.clone(),
            set,
            reading: Mutex::default(),
        };
        if let Some(RememberedSplit { summary, .. }) = known {
            return Ok(make(summary, OnceLock::new()));
        }
        let mut remarks = Vec::new();
        let set = source.load(split, fit, &mut remarks)?;
        let summary = SplitSummary::of(&set, remarks);
        if let (Some(signature), Some(name)) = (signature, &name) {
            let (state, program) = (signature.state, PROGRAM.to_owned());
            remembered::write(name, &RememberedSplit { state, program, summary: summary.clone() });
        }
        Ok(make(summary, OnceLock::from(set)))
    }

    /// The images.
    ///
    /// # Errors
    /// When they can't be read, or are not those of the summary.
    pub fn images(&self) -> Result<&Dataset, DataError> {
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = self.set.get() {
            return Ok(set);
        }
        let mut remarks = Vec::new();
        let set = self.source.load(self.split, self.fit, &mut remarks)?;
        if SplitSummary::of(&set, remarks) != self.summary {
            self.name.as_deref().map(remembered::forget);
            return Err(DataError::Mismatch(format!(
                "the images of {} are others than when they were first read, though their files have the same sizes and times, or changed while this ran: start it again",
                self.source.directory().display()
            )));
        }
        Ok(self.set.get_or_init(|| set))
    }
}

/// Real data: its test set, and its training set once a stage needs it.
pub struct Real {
    source: Source,
    fit: Fit,
    pub test: RealSplit,
    train: OnceCell<RealSplit>,
}

impl Real {
    #[cfg(test)]
    pub fn of_test(source: Source, fit: Fit, set: Dataset) -> Self {
        let test = RealSplit {
            summary: SplitSummary::of(&set, Vec::new()),
            source: source.clone(),
            split: Split::Test,
            fit,
            name: None,
            set: OnceLock::from(set),
            reading: Mutex::default(),
        };
        Self { source, fit, test, train: OnceCell::new() }
    }

    /// Notes for the user about data that are odd but not wrong.
    pub fn remarks(&self) -> Vec<String> {
        let of = |split: &RealSplit| split.summary.remarks.clone();
        [of(&self.test), self.train.get().map(of).unwrap_or_default()].concat()
    }

    /// The training set, if it was opened.
    pub fn opened_train(&self) -> Option<&RealSplit> {
        self.train.get()
    }

    /// The training set.
    pub fn train(&self) -> Result<&RealSplit, DataError> {
        if let Some(train) = self.train.get() {
            return Ok(train);
        }
        let train = RealSplit::open(&self.source, Split::Train, self.fit)?;
        Ok(self.train.get_or_init(|| train))
    }
}

/// Data that were opened before; experiments on the same data share them.
#[derive(Default)]
pub struct DatasetCache {
    opened: RefCell<Vec<Rc<Real>>>,
}

impl DatasetCache {
    /// The data that `data` names, for networks with images of this `shape`; `None` for `data:
    /// none`.
    pub fn get(&self, data: &DataConfig, shape: [usize; 3]) -> Result<Option<Rc<Real>>, DataError> {
        let Some(source) = source(data)? else { return Ok(None) };
        let (fit, mut opened) = (Fit::To(shape), self.opened.borrow_mut());
        if let Some(known) = opened.iter().find(|real| real.source == source && real.fit == fit) {
            return Ok(Some(known.clone()));
        }
        let test = RealSplit::open(&source, Split::Test, fit)?;
        let real = Rc::new(Real { source, fit, test, train: OnceCell::new() });
        opened.push(real.clone());
        Ok(Some(real))
    }
}

/// Checks that `train` has as many images of each class as `key` needs.
pub fn require_images(train: &SplitSummary, key: &str, needed: u64) -> Result<(), RunError> {
    let short = train.classes.iter().zip(&train.counts).filter(|(_, found)| **found < needed);
    match short.min_by_key(|(_, found)| **found) {
        None => Ok(()),
        Some((class, &found)) => {
            let (key, class, data) = (key.into(), class.clone(), train.name.clone());
            Err(RunError::TooFew { key, needed, class, data, found })
        }
    }
}

/// The content hash of real data.
fn data_hash(set: &Dataset) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&set.images);
    set.labels.iter().for_each(|label| {
        hasher.update(&label.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}

/// Finds the experiment's data.
fn source(data: &DataConfig) -> Result<Option<Source>, DataError> {
    let unset = || DataError::Mismatch("the experiment's data has no path: set `data.path`".into());
    let found = match (data.kind, data.kind.known_name(), &data.path) {
        (DataKind::None, ..) => return Ok(None),
        (_, Some(name), Some(path)) => Source::find_at(name, path),
        (_, Some(name), None) => Source::find(name),
        (_, None, None) => Err(unset()),
        (kind, None, Some(path)) => of_form(kind, path).and_then(|source| match &data.class_map {
            Some(map) => source.with_class_map(map),
            None => Ok(source),
        }),
    };
    found.map(Some)
}

/// Opens the data at `path`, which must have the form that the experiment names.
fn of_form(kind: DataKind, path: &Path) -> Result<Source, DataError> {
    let source = Source::open(path)?;
    let Some(found) = source.layout().form().map(|form| DataKind::Form(form.name)) else {
        let name = source.known().map_or("the data set's name", |set| set.name.as_str());
        let problem = format!("{} holds files of {name}; set `data.type: {name}`", path.display());
        return Err(DataError::Mismatch(problem));
    };
    if found == kind {
        return Ok(source);
    }
    let (path, found, kind) = (path.display(), found.name(), kind.name());
    Err(DataError::Mismatch(format!(
        "{path} holds data of type `{found}`, not `{kind}`; set `data.type: {found}`"
    )))
}
