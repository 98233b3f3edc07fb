//! The real data of experiments.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::rc::Rc;

use crate::config::{DataConfig, DataKind};
use scdd_data::{DataError, Dataset, Fit, Signature, Source, Split};

use super::RunError;
use super::opened::{OpenedImages, ReadImages, SplitSummary};

/// Reads one split of real data.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitReader {
    source: Source,
    split: Split,
    fit: Fit,
}

impl ReadImages for SplitReader {
    fn signature(&self) -> Option<Signature> {
        self.source.signature(self.split, self.fit)
    }

    fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
        self.source.load(self.split, self.fit, remarks)
    }

    fn place(&self) -> &Path {
        self.source.directory()
    }
}

/// A split of real data.
pub type RealSplit = OpenedImages<SplitReader>;

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
        let reader = SplitReader { source: source.clone(), split: Split::Test, fit };
        let test = RealSplit::of(reader, set);
        Self { source, fit, test, train: OnceCell::new() }
    }

    /// Notes for the user about data that are odd but not wrong.
    pub fn remarks(&self) -> Vec<String> {
        let of = |split: &RealSplit| split.summary.remarks().to_vec();
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
        let train = RealSplit::open(SplitReader {
            source: self.source.clone(),
            split: Split::Train,
            fit: self.fit,
        })?;
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
        let test =
            RealSplit::open(SplitReader { source: source.clone(), split: Split::Test, fit })?;
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
    found.map(|source| Some(source.holding_out(data.held_out as usize)))
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
