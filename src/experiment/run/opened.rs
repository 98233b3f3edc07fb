//! Sets of images that are opened before anything is made. Reading and hashing images takes longer
//! than everything else in listing stages, so what it gives is remembered, and pixels are read only
//! where a stage needs them.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use scdd_artifacts::remembered;
use scdd_data::{DataError, Dataset, Signature};

/// What is known of a set of images without its pixels.
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

    /// Notes for the user about data that are odd but not wrong.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

/// What reads a labelled set of images from its files.
pub trait ReadImages {
    /// What tells whether the files have changed; `None` if they may be changing.
    fn signature(&self) -> Option<Signature>;

    /// Reads the images. `remarks` receives notes for the user.
    ///
    /// # Errors
    /// When the files can't be read.
    fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError>;

    /// The files' directory or file.
    fn place(&self) -> &Path;
}

/// A set of images. Its pixels are read when a stage asks for them, and stay in memory.
pub struct OpenedImages<R> {
    pub summary: SplitSummary,
    reader: R,
    /// Its name among what is [`remembered`].
    name: Option<String>,
    set: OnceLock<Dataset>,
    /// Locked while the pixels are read.
    reading: Mutex<()>,
}

/// What is remembered of a set.
#[derive(Serialize, Deserialize)]
struct RememberedSplit {
    state: String,
    /// The program that read it.
    program: String,
    summary: SplitSummary,
}

/// Readers of other versions may give other pixels.
const PROGRAM: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");

impl<R: ReadImages> OpenedImages<R> {
    /// Opens what `reader` reads. Its images are read now, unless an earlier run read the same
    /// files.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn open(reader: R) -> Result<Self, DataError> {
        let signature = reader.signature();
        let name = signature.as_ref().map(|signature| format!("splits/{}", signature.name));
        let known = name.as_deref().and_then(remembered::read::<RememberedSplit>);
        let known = known.filter(|known| {
            known.program == PROGRAM
                && signature.as_ref().is_some_and(|signature| signature.state == known.state)
        });
        if let Some(RememberedSplit { summary, .. }) = known {
            let (set, reading) = (OnceLock::new(), Mutex::default());
            return Ok(Self { summary, reader, name, set, reading });
        }
        let mut remarks = Vec::new();
        let set = reader.load(&mut remarks)?;
        let summary = SplitSummary::of(&set, remarks);
        if let (Some(signature), Some(name)) = (signature, &name) {
            let (state, program) = (signature.state, PROGRAM.to_owned());
            remembered::write(name, &RememberedSplit { state, program, summary: summary.clone() });
        }
        let (set, reading) = (OnceLock::from(set), Mutex::default());
        Ok(Self { summary, reader, name, set, reading })
    }

    /// Images that were read before.
    #[cfg(test)]
    pub fn of(reader: R, set: Dataset) -> Self {
        let summary = SplitSummary::of(&set, Vec::new());
        Self { summary, reader, name: None, set: OnceLock::from(set), reading: Mutex::default() }
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
        let set = self.reader.load(&mut remarks)?;
        if SplitSummary::of(&set, remarks) != self.summary {
            self.name.as_deref().map(remembered::forget);
            return Err(DataError::Mismatch(format!(
                "the images of {} are others than when they were first read, though their files have the same sizes and times, or changed while this ran: start it again",
                self.reader.place().display()
            )));
        }
        Ok(self.set.get_or_init(|| set))
    }
}

/// The content hash of images and labels.
fn data_hash(set: &Dataset) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&set.images);
    set.labels.iter().for_each(|label| {
        hasher.update(&label.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}
