//! The real data of experiments. Reading and hashing takes longer than everything else in listing
//! stages, so it is done once.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::rc::Rc;

use crate::config::{DataConfig, DataKind};
use scdd_data::{DataError, Dataset, Fit, Source, Split};

use super::RunError;

/// A data set and its hash.
pub struct HashedDataset {
    pub set: Dataset,
    /// BLAKE3 of pixels and labels, 64 hex digits.
    pub hash: String,
}

impl HashedDataset {
    fn load(
        source: &Source,
        split: Split,
        fit: Fit,
        remarks: &mut Vec<String>,
    ) -> Result<Self, DataError> {
        let set = source.load(split, fit, remarks)?;
        Ok(Self { hash: data_hash(&set), set })
    }
}

/// Real data: its location, its test set, and its training set once a stage needs it.
pub struct Real {
    source: Source,
    fit: Fit,
    pub test: HashedDataset,
    train: OnceCell<HashedDataset>,
    remarks: RefCell<Vec<String>>,
}

impl Real {
    #[cfg(test)]
    pub fn of_test(source: Source, fit: Fit, set: Dataset) -> Self {
        let test = HashedDataset { hash: data_hash(&set), set };
        Self { source, fit, test, train: OnceCell::new(), remarks: RefCell::default() }
    }

    /// Notes for the user about data that are odd but not wrong.
    pub fn remarks(&self) -> Vec<String> {
        self.remarks.borrow().clone()
    }

    /// The training set, if it was read.
    pub fn read_train(&self) -> Option<&HashedDataset> {
        self.train.get()
    }

    /// The training set.
    pub fn train(&self) -> Result<&HashedDataset, DataError> {
        if let Some(train) = self.train.get() {
            return Ok(train);
        }
        let train = HashedDataset::load(
            &self.source,
            Split::Train,
            self.fit,
            &mut self.remarks.borrow_mut(),
        )?;
        Ok(self.train.get_or_init(|| train))
    }
}

/// Data that were read before; experiments on the same data share them.
#[derive(Default)]
pub struct DatasetCache {
    read: RefCell<Vec<Rc<Real>>>,
}

impl DatasetCache {
    /// The data that `data` names, for networks with images of this `shape`; `None` for `data:
    /// none`.
    pub fn get(&self, data: &DataConfig, shape: [usize; 3]) -> Result<Option<Rc<Real>>, DataError> {
        let Some(source) = source(data)? else { return Ok(None) };
        let (fit, mut read) = (Fit::To(shape), self.read.borrow_mut());
        if let Some(known) = read.iter().find(|real| real.source == source && real.fit == fit) {
            return Ok(Some(known.clone()));
        }
        let mut remarks = Vec::new();
        let test = HashedDataset::load(&source, Split::Test, fit, &mut remarks)?;
        let real = Rc::new(Real {
            source,
            fit,
            test,
            train: OnceCell::new(),
            remarks: RefCell::new(remarks),
        });
        read.push(real.clone());
        Ok(Some(real))
    }
}

/// Checks that `train` has as many images of each class as `key` needs.
pub fn require_images(train: &Dataset, key: &str, needed: u64) -> Result<(), RunError> {
    let mut counts = vec![0u64; train.classes.len()];
    // Labels are below the number of classes.
    train.labels.iter().for_each(|&label| counts[label as usize] += 1);
    match train
        .classes
        .iter()
        .zip(counts)
        .filter(|(_, found)| *found < needed)
        .min_by_key(|(_, found)| *found)
    {
        None => Ok(()),
        Some((class, found)) => {
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
