//! `scdd pack`: writes a data set as arrays of bytes that are read without decoding.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use super::{CommandOutcome, Global};
use scdd_data::place::printable;
use scdd_data::{Fit, PackProgress, Source, Split, pack};
use scdd_experiment::report;

/// The interval between two reports of progress.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Pack a data set: every image at the size that networks take, in one array per split that is read
/// without decoding; an interrupted call goes on
#[derive(clap::Args)]
pub struct Pack {
    /// The data set: its name, or a folder or archive in any layout
    #[arg(value_name = "DATA")]
    data: String,
    /// The directory to write, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Height and width of images that are single files; by default those of the known data set
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: Option<u16>,
    /// Make images that are single files gray; by default RGB, or as the known data set is
    #[arg(long)]
    gray: bool,
    /// Pack one split only
    #[arg(long, value_name = "SPLIT")]
    only: Option<OneSplit>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OneSplit {
    Train,
    Test,
}

impl Pack {
    pub fn run(self, global: &Global) -> anyhow::Result<CommandOutcome> {
        let place = Path::new(&self.data);
        let source = if place.exists() { Source::open(place)? } else { Source::find(&self.data)? };
        let fit = self.fit(&source)?;
        let splits = match self.only {
            None => vec![Split::Train, Split::Test],
            Some(OneSplit::Train) => vec![Split::Train],
            Some(OneSplit::Test) => vec![Split::Test],
        };
        let mut remarks = Vec::new();
        let mut teller = Teller { is_quiet: global.quiet, told: Instant::now(), first: None };
        let mut tell = |progress| teller.tell(progress);
        let packed = pack(&source, &splits, fit, &self.out, &mut tell, &mut remarks)?;
        for remark in remarks {
            eprintln!("note: {}", printable(&remark));
        }
        if global.json {
            let found = serde_json::json!({"directory": self.out, "splits": packed});
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            let counts: Vec<String> =
                packed.iter().map(|file| format!("{} {}", file.images, file.split)).collect();
            println!("{}: {} images", self.out.display(), counts.join(" and "));
        }
        Ok(CommandOutcome::Done)
    }

    /// The shape of images that are single files.
    fn fit(&self, source: &Source) -> anyhow::Result<Fit> {
        if !source.has_single_files() {
            ensure!(
                self.size.is_none() && !self.gray,
                "{}: its images have a size of their own; leave out --size and --gray",
                self.data
            );
            return Ok(Fit::Exact);
        }
        let known = source.known();
        let size = self.size.map(usize::from).or(known.map(|known| known.size));
        let size = size.ok_or_else(|| {
            anyhow!("{}: give --size, the height and width that networks take", self.data)
        })?;
        let channels = known.map_or(3, |known| known.channels);
        Ok(Fit::To([if self.gray { 1 } else { channels }, size, size]))
    }
}

/// Says from time to time how far packing is.
struct Teller {
    is_quiet: bool,
    /// When it said something last.
    told: Instant,
    /// When the present split's first part was packed, and how many images were by then.
    first: Option<(PackProgress, Instant)>,
}

impl Teller {
    fn tell(&mut self, progress: PackProgress) {
        let PackProgress { split, done, images } = progress;
        let (first, since) = match self.first {
            Some((first, since)) if first.split == split => (first.done, since),
            _ => {
                self.first = Some((progress, Instant::now()));
                return;
            }
        };
        if self.is_quiet || self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let rate = (done - first) as f64 / since.elapsed().as_secs_f64();
        let left = report::duration((images - done) as f64 / rate.max(f64::MIN_POSITIVE));
        eprintln!(
            "packed {done} of {images} {} images, {rate:.0} a second, about {left} left",
            split.name()
        );
    }
}
