//! Copies the first images of each class from a set that recover wrote.

use std::fs;
use std::io;
use std::path::Path;

use scdd_artifacts::files::FOLDER;
use scdd_artifacts::files::FileError;
use scdd_artifacts::stage::WorkDir;
use scdd_data::png;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::subset::SubsetTask;

pub fn make(task: &SubsetTask, work: &WorkDir) -> Result<(), Failure> {
    let damaged =
        |path: &Path, e: io::Error| FileError::Damaged { path: path.into(), what: e.to_string() };
    for class in fs::read_dir(&task.folder).map_err(|e| damaged(&task.folder, e))? {
        let class = class.map_err(|e| damaged(&task.folder, e))?.file_name();
        for number in 0..task.ipc as usize {
            let image = task.folder.join(&class).join(png::file_name(number));
            let bytes = fs::read(&image).map_err(|e| damaged(&image, e))?;
            work.write(Path::new(FOLDER).join(&class).join(png::file_name(number)), &bytes)?;
        }
    }
    Ok(())
}
