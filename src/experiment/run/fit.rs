//! Checks that an experiment's bundles and data match before any stage is made.

use std::collections::BTreeMap;
use std::path::Path;

use super::opened::SplitSummary;
use super::{Bundles, RunError, every};
use crate::config::{Experiment, ViewCrop};
use scdd_artifacts::bundle::classes::{self, Sides};
use scdd_artifacts::bundle::{Bundle, Role};

/// The remedy if class names differ.
const REMEDY: &str = "give the data the bundle's names in the bundle's order, by a `data.class_map` (image folder) or a `classes.txt` (IDX files)";

/// The role of a bundle in an experiment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Teacher,
    Committee,
    Labeller,
    Verifier,
    Student,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Teacher => "a teacher",
            Self::Committee => "a committee's teacher",
            Self::Labeller => "a labelling teacher",
            Self::Verifier => "a verifier",
            Self::Student => "a student",
        }
    }
}

/// All bundles with their roles; a bundle may have several.
fn parts(experiment: &Experiment) -> Vec<(Part, &Path)> {
    let methods = experiment.methods.values();
    let members = methods
        .clone()
        .filter_map(|method| method.committee.as_ref())
        .flat_map(|all| &all.teachers);
    let verifiers = methods.flat_map(|method| &method.verifier);
    let labellers = experiment.labellers().into_iter().chain(experiment.ensembles());
    let mut parts: Vec<(Part, &Path)> = Vec::new();
    parts.extend(experiment.teachers.iter().map(|path| (Part::Teacher, path.as_path())));
    parts.extend(members.map(|path| (Part::Committee, path.as_path())));
    parts.extend(labellers.map(|path| (Part::Labeller, path)));
    parts.extend(verifiers.map(|path| (Part::Verifier, path.as_path())));
    parts.extend(experiment.students.iter().map(|path| (Part::Student, path.as_path())));
    parts
}

/// Checks that networks have the data's channels, size and classes, and suit the roles that the
/// experiment gives them. Returns remarks for the user.
///
/// # Errors
/// All bundles that do not fit, each with its reason.
pub fn check(
    experiment: &Experiment,
    bundles: &Bundles,
    test: Option<&SplitSummary>,
) -> Result<Vec<String>, RunError> {
    let (mut remarks, mut wrong) = (Vec::new(), BTreeMap::new());
    for (part, path) in parts(experiment) {
        match check_part(experiment, bundles, test, part, path) {
            Ok(told) => remarks.extend(told),
            // A bundle with several roles is reported once.
            Err(what) => drop(wrong.entry(path).or_insert(what)),
        }
    }
    every(
        wrong
            .into_iter()
            .map(|(path, what)| Err::<(), _>(RunError::Misfit { path: path.into(), what })),
    )?;
    Ok(remarks)
}

fn check_part(
    experiment: &Experiment,
    bundles: &Bundles,
    test: Option<&SplitSummary>,
    part: Part,
    path: &Path,
) -> Result<Vec<String>, String> {
    let (bundle, mut remarks) = (&bundles[path], Vec::new());
    check_role(part, bundle)?;
    if part == Part::Teacher {
        remarks.extend(check_teacher(experiment, bundles, bundle, test)?);
        for (name, protocol) in &experiment.protocols {
            if let Some(ViewCrop::Padded { pad }) = protocol.relabel.crop {
                check_border(pad, bundle.image_shape())
                    .map_err(|why| format!("{why} (protocol `{name}`)"))?;
            }
        }
    }
    let must_label = part == Part::Labeller && !experiment.students.is_empty();
    if let Some(why) = bundle.without_classifier().filter(|_| must_label) {
        return Err(format!(
            "can't label images: {why}. Or name other teachers under `relabel_teachers`"
        ));
    }
    if let Some(test) = test.filter(|_| part != Part::Verifier) {
        remarks.extend(check_data(path, bundle, test)?);
    }
    Ok(remarks)
}

fn check_role(part: Part, bundle: &Bundle) -> Result<(), String> {
    let role = match bundle.manifest.role {
        Role::Teacher => "teacher",
        Role::Student => "student",
    };
    if (part == Part::Student) == (bundle.manifest.role == Role::Student) {
        return Ok(());
    }
    Err(format!("is a {role} bundle, the experiment names it as {}", part.name()))
}

/// Checks that the bundle accepts the data's images and has the same classes. Returns a remark if
/// names neither confirm nor refute that.
fn check_data(path: &Path, bundle: &Bundle, test: &SplitSummary) -> Result<Option<String>, String> {
    let (shape, data) = (bundle.image_shape(), test.shape);
    if shape != data {
        return Err(format!(
            "takes images of {shape:?} [channels, height, width], {} has {data:?}",
            test.name
        ));
    }
    if bundle.manifest.is_features_only() {
        return Ok(None);
    }
    let sides = Sides { network: "the bundle", other: &test.name, remedy: REMEDY };
    let remark = classes::check(&bundle.manifest.classes, &test.classes, &sides)?;
    Ok(remark.map(|remark| format!("{}: {remark}", path.display())))
}

/// Checks that the teacher has the classes to recover, and that its verifiers have the same
/// classes. Returns a remark if names neither confirm nor refute that.
fn check_teacher(
    experiment: &Experiment,
    bundles: &Bundles,
    teacher: &Bundle,
    test: Option<&SplitSummary>,
) -> Result<Option<String>, String> {
    let features_only = teacher.manifest.is_features_only();
    let classes = match test.filter(|_| features_only) {
        Some(test) => test.classes.len(),
        None if features_only => {
            return Err("has no classifier, and `data: none` gives no classes either".into());
        }
        None => teacher.manifest.classes.len(),
    };
    let mut remark = None;
    for (name, method) in &experiment.methods {
        if let Some(class) =
            method.classes.iter().flatten().find(|class| **class as usize >= classes)
        {
            return Err(format!("has {classes} classes, method `{name}` asks for class {class}"));
        }
        if features_only && !method.verifier.is_empty() {
            return Err(
                "has no classifier, so its images have no classes for a verifier to recognise"
                    .into(),
            );
        }
        for path in &method.verifier {
            let found = check_verifier(teacher, path, &bundles[path])?;
            remark = remark.or(found);
        }
    }
    Ok(remark)
}

fn check_verifier(
    teacher: &Bundle,
    path: &Path,
    verifier: &Bundle,
) -> Result<Option<String>, String> {
    let (own, its) = (teacher.image_shape()[0], verifier.image_shape()[0]);
    let of = format!("its verifier {}", path.display());
    if own != its {
        return Err(format!("has {own} channels, {of} has {its}"));
    }
    let sides = Sides {
        network: "the teacher",
        other: &of,
        remedy: "name a verifier of the teacher's classes",
    };
    let remark = classes::check(&teacher.manifest.classes, &verifier.manifest.classes, &sides)?;
    Ok(remark.map(|remark| format!("{}: {remark}", teacher.name())))
}

/// Every crop of a padded image must contain a part of the image. A border also costs memory in
/// proportion to its square.
fn check_border(pad: u16, [_, height, width]: [usize; 3]) -> Result<(), String> {
    let side = height.min(width);
    if usize::from(pad) < side {
        return Ok(());
    }
    Err(format!(
        "makes images of {height}x{width} pixels, of which crops with `relabel.crop.pad: {pad}` could show nothing: \
         pad by less than {side}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_leaves_something_of_the_image_in_every_crop() {
        for (pad, fits) in [(4, true), (31, true), (32, false), (4096, false)] {
            assert_eq!(check_border(pad, [3, 32, 40]).is_ok(), fits, "{pad}");
        }
        let why = check_border(4096, [3, 32, 40]).unwrap_err();
        assert!(why.contains("32x40 pixels") && why.contains("pad by less than 32"), "{why}");
    }
}
