//! Copies the first images of each class of a set that recover wrote.

use std::fs;
use std::io;
use std::path::Path;

use crate::data::png;
use crate::run::files::FOLDER;
use crate::run::stage::WorkDir;
use crate::run::stages::subset::Task;
use crate::run::{Failure, RunError};

pub fn make(task: &Task, work: &WorkDir) -> Result<(), Failure> {
    let damaged = |path: &Path, e: io::Error| RunError::Damaged { path: path.into(), what: e.to_string() };
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
