//! Sets of images that are opened before anything is made. Reading and hashing images takes longer
//! than everything else in listing stages, so what it gives is remembered, and pixels are read only
//! where a stage needs them.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use scdd_artifacts::remembered;
use scdd_data::registry::DataSet;
use scdd_data::{DataError, Dataset, ImagePixels, Signature, Split};

/// What is done about a set of many image files that was never read.
#[derive(Debug, Clone, Copy)]
pub enum FirstReading {
    /// All images are decoded for their hash, which the user is told.
    Make(fn(&str)),
    /// Only files are listed: the summary has no hash, so that keys of stages are provisional.
    Avoid,
}

impl Default for FirstReading {
    fn default() -> Self {
        Self::Make(|_| ())
    }
}

/// Stands for the hash of images that were not read.
const UNREAD: &str = "unread";

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
    /// What is known of `set`. All its images are read.
    fn of(set: &Dataset, remarks: Vec<String>) -> Result<Self, DataError> {
        Ok(Self::with_hash(set, set.hash()?, remarks))
    }

    fn with_hash(set: &Dataset, hash: String, remarks: Vec<String>) -> Self {
        let mut counts = vec![0; set.classes.len()];
        // Labels are below the number of classes.
        set.labels.iter().for_each(|&label| counts[label as usize] += 1);
        Self {
            name: set.name.clone(),
            classes: set.classes.clone(),
            counts,
            shape: [set.channels, set.height, set.width],
            hash,
            remarks,
        }
    }

    /// What the description of `known` says of its `split`, which is not there.
    pub(super) fn described(known: &DataSet, split: Split) -> Self {
        let (classes, images) = (known.class_names(), known.split(split).images as u64);
        let share = |class: u64| (images + class) / classes.len().max(1) as u64;
        let size = known.size;
        Self {
            name: known.name.clone(),
            counts: (0..classes.len() as u64).map(share).collect(),
            classes,
            shape: [known.channels, size, size],
            hash: UNREAD.into(),
            remarks: Vec::new(),
        }
    }

    /// Whether the images were never read, so that keys of stages that need them are provisional.
    pub fn is_unread(&self) -> bool {
        self.hash == UNREAD
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

/// A set of images, which is read when a stage asks for it.
pub struct OpenedImages<R> {
    pub summary: SplitSummary,
    reader: R,
    /// The state of the files whose images the summary is about.
    state: Option<String>,
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
    pub fn open(reader: R, first: FirstReading) -> Result<Self, DataError> {
        let signature = reader.signature();
        let name = signature.as_ref().map(|signature| format!("splits/{}", signature.name));
        let known = name.as_deref().and_then(remembered::read::<RememberedSplit>);
        let known = known.filter(|known| {
            known.program == PROGRAM
                && signature.as_ref().is_some_and(|signature| signature.state == known.state)
        });
        if let Some(RememberedSplit { summary, .. }) = known {
            let (set, reading) = (OnceLock::new(), Mutex::default());
            let state = signature.map(|signature| signature.state);
            return Ok(Self { summary, reader, state, name, set, reading });
        }
        let mut remarks = Vec::new();
        let set = reader.load(&mut remarks)?;
        let state = signature.map(|signature| signature.state);
        match (first, &set.images) {
            (FirstReading::Avoid, ImagePixels::Files(_) | ImagePixels::Rows(_)) => {
                let summary = SplitSummary::with_hash(&set, UNREAD.into(), remarks);
                let (set, reading) = (OnceLock::new(), Mutex::default());
                return Ok(Self { summary, reader, state, name: None, set, reading });
            }
            (FirstReading::Make(tell), ImagePixels::Files(_) | ImagePixels::Rows(_)) => {
                tell(&format!(
                    "reading the {} images of {} once, for their hash, which `scdd pack` would keep",
                    set.len(),
                    reader.place().display()
                ))
            }
            _ => {}
        }
        let summary = SplitSummary::of(&set, remarks)?;
        if let (Some(state), Some(name)) = (&state, &name) {
            let (state, program) = (state.clone(), PROGRAM.to_owned());
            remembered::write(name, &RememberedSplit { state, program, summary: summary.clone() });
        }
        let (set, reading) = (OnceLock::from(set), Mutex::default());
        Ok(Self { summary, reader, state, name, set, reading })
    }

    /// Images that are not there, of which only the `summary` is known.
    pub(super) fn absent(reader: R, summary: SplitSummary) -> Self {
        let (set, reading) = (OnceLock::new(), Mutex::default());
        Self { summary, reader, state: None, name: None, set, reading }
    }

    /// Images that were read before.
    #[cfg(test)]
    pub fn of(reader: R, set: Dataset) -> Self {
        let summary = SplitSummary::of(&set, Vec::new()).unwrap();
        let (set, reading) = (OnceLock::from(set), Mutex::default());
        Self { summary, reader, state: None, name: None, set, reading }
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
        // To decode all files once more would take longer than most stages.
        let is_unchanged = set.images.are_read_anew() && self.is_unchanged();
        let found = match is_unchanged {
            true => SplitSummary::with_hash(&set, self.summary.hash.clone(), remarks),
            false => SplitSummary::of(&set, remarks)?,
        };
        if found != self.summary {
            self.name.as_deref().map(remembered::forget);
            return Err(DataError::Mismatch(format!(
                "the images of {} are others than when they were first read, though their files have the same sizes and times, or changed while this ran: start it again",
                self.reader.place().display()
            )));
        }
        Ok(self.set.get_or_init(|| set))
    }

    /// Whether the files are in the state in which the summary was made.
    fn is_unchanged(&self) -> bool {
        let state = self.reader.signature().map(|signature| signature.state);
        state.is_some() && state == self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scdd_data::{Fit, Source, png};
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    /// A folder whose images are decoded each time that they are asked for.
    struct Folder(Source);

    impl ReadImages for Folder {
        fn signature(&self) -> Option<Signature> {
            self.0.signature(Split::Train, Fit::Exact)
        }

        fn load(&self, remarks: &mut Vec<String>) -> Result<Dataset, DataError> {
            self.0.load_holding(0, Split::Train, Fit::Exact, remarks)
        }

        fn place(&self) -> &Path {
            self.0.directory()
        }
    }

    fn put(root: &Path, file: &str, value: u8, hours: u64) {
        let path = root.join("train").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, png::encode(&[value], 1, 1, 1).unwrap()).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(3600 * hours);
        fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn images_that_are_read_anew_are_those_of_the_summary_while_their_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a/0.png", 5, 2);
        put(dir.path(), "b/0.png", 6, 2);
        let open_with =
            |first| OpenedImages::open(Folder(Source::open(dir.path()).unwrap()), first).unwrap();
        let open = || open_with(FirstReading::default());
        let unread = open_with(FirstReading::Avoid);
        assert!(unread.summary.is_unread());
        assert_eq!(
            (unread.summary.images(), &unread.summary.classes[..]),
            (2, &["a".into(), "b".into()][..])
        );
        let opened = open();
        assert_eq!(open_with(FirstReading::Avoid).summary, opened.summary, "it is remembered");
        assert_eq!(opened.images().unwrap().image(1).unwrap()[..], [6]);
        assert_eq!(open().summary, opened.summary);
        // Remembered: the images are not decoded to find that they are the same.
        let remembered = open();
        put(dir.path(), "b/0.png", 7, 2);
        assert_eq!(remembered.images().unwrap().image(1).unwrap()[..], [7]);
        let changed = open();
        put(dir.path(), "b/0.png", 8, 3);
        let message = changed.images().unwrap_err().to_string();
        assert!(message.contains("are others than when they were first read"), "{message}");
        assert_ne!(open().summary.hash, opened.summary.hash);
    }
}
