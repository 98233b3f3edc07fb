//! The real data of experiments.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::rc::Rc;

use crate::config::{DataConfig, DataKind};
use scdd_data::registry::{self, DataSet};
use scdd_data::{DataError, Dataset, Fit, Signature, Source, Split};

use super::RunError;
use super::opened::{FirstReading, OpenedImages, ReadImages, SplitSummary};

/// Where real data are.
#[derive(Debug, Clone, PartialEq)]
enum RealPlace {
    Found(Source),
    /// Nowhere on this machine; a plan can be made of what is known of them.
    Absent(&'static DataSet),
}

/// Reads one split of real data.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitReader {
    place: RealPlace,
    split: Split,
    fit: Fit,
}

impl SplitReader {
    fn open(self, first: FirstReading) -> Result<RealSplit, DataError> {
        match self.place {
            RealPlace::Found(_) => RealSplit::open(self, first),
            RealPlace::Absent(known) => {
                let summary = SplitSummary::described(known, self.split);
                Ok(RealSplit::absent(self, summary))
            }
        }
    }
}

impl ReadImages for SplitReader {
    fn signature(&self) -> Option<Signature> {
        match &self.place {
            RealPlace::Found(source) => source.signature(self.split, self.fit),
            RealPlace::Absent(_) => None,
        }
    }

    fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
        match &self.place {
            RealPlace::Found(source) => source.load(self.split, self.fit, remarks),
            // Says where it was looked for.
            RealPlace::Absent(known) => {
                Source::find(&known.name)?.load(self.split, self.fit, remarks)
            }
        }
    }

    fn place(&self) -> &Path {
        match &self.place {
            RealPlace::Found(source) => source.directory(),
            RealPlace::Absent(known) => Path::new(&known.name),
        }
    }
}

/// A split of real data.
pub type RealSplit = OpenedImages<SplitReader>;

/// Real data: its test set, and its training set once a stage needs it.
pub struct Real {
    place: RealPlace,
    fit: Fit,
    first: FirstReading,
    pub test: RealSplit,
    train: OnceCell<RealSplit>,
}

impl Real {
    #[cfg(test)]
    pub fn of_test(source: Source, fit: Fit, set: Dataset) -> Self {
        let place = RealPlace::Found(source);
        let reader = SplitReader { place: place.clone(), split: Split::Test, fit };
        let test = RealSplit::of(reader, set);
        Self { place, fit, first: FirstReading::default(), test, train: OnceCell::new() }
    }

    /// Notes for the user about data that are odd but not wrong.
    pub fn remarks(&self) -> Vec<String> {
        let of = |split: &RealSplit| split.summary.remarks().to_vec();
        [of(&self.test), self.train.get().map(of).unwrap_or_default()].concat()
    }

    /// Notes for the user about splits whose images were not read, so that a plan is provisional.
    pub fn unread(&self) -> Vec<String> {
        let opened = [Some(&self.test), self.train.get()].into_iter().flatten();
        let unread = opened.map(|split| &split.summary).filter(|about| about.is_unread());
        let note = |about: &SplitSummary| match &self.place {
            RealPlace::Found(source) => format!(
                "{}: its {} images were never read here, so that no stage that needs them counts as complete; the first run \
                 reads them once for their hash, which `scdd pack` keeps",
                source.directory().display(),
                about.images()
            ),
            RealPlace::Absent(known) => format!(
                "{} is not on this machine: its {} images are planned for by its description; `python -m exporters fetch {}` \
                 says how to get them",
                known.title,
                about.images(),
                known.name
            ),
        };
        unread.map(note).collect()
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
        let place = self.place.clone();
        let train = SplitReader { place, split: Split::Train, fit: self.fit }.open(self.first)?;
        Ok(self.train.get_or_init(|| train))
    }
}

/// Data that were opened before; experiments on the same data share them.
#[derive(Default)]
pub struct DatasetCache {
    opened: RefCell<Vec<Rc<Real>>>,
    first: FirstReading,
    /// Whether the description of a known data set stands in for data that are not there.
    describes: bool,
}

impl DatasetCache {
    /// Data that are read; `tell` gets a line before a long first reading.
    pub fn telling(tell: fn(&str)) -> Self {
        Self { first: FirstReading::Make(tell), ..Self::default() }
    }

    /// Data of which no image is read where listing files suffices for a plan.
    pub fn without_reading() -> Self {
        Self { first: FirstReading::Avoid, ..Self::default() }
    }

    /// The same, but a known data set need not even be there.
    pub fn by_description() -> Self {
        Self { describes: true, ..Self::without_reading() }
    }

    /// The data that `data` names, for networks with images of this `shape`; `None` for `data:
    /// none`.
    pub fn get(&self, data: &DataConfig, shape: [usize; 3]) -> Result<Option<Rc<Real>>, DataError> {
        let place = match source(data) {
            Ok(None) => return Ok(None),
            Ok(Some(source)) => RealPlace::Found(source),
            Err(error) => self.described(data, &error).ok_or(error)?,
        };
        let (fit, first, mut opened) = (Fit::To(shape), self.first, self.opened.borrow_mut());
        if let Some(known) = opened.iter().find(|real| real.place == place && real.fit == fit) {
            return Ok(Some(known.clone()));
        }
        let test = SplitReader { place: place.clone(), split: Split::Test, fit }.open(first)?;
        let real = Rc::new(Real { place, fit, first, test, train: OnceCell::new() });
        opened.push(real.clone());
        Ok(Some(real))
    }

    /// The description of `data`, if it is nowhere but suffices for a plan.
    fn described(&self, data: &DataConfig, error: &DataError) -> Option<RealPlace> {
        let is_missing = matches!(error, DataError::Missing { .. });
        let known = data.kind.known_name().and_then(registry::find)?;
        let suffices = self.describes && data.held_out == 0;
        (is_missing && suffices).then_some(RealPlace::Absent(known))
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
