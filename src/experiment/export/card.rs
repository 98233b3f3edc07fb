//! The data card of an exported set: contents, origin, and advice before use.

use super::{ExportError, Format};
use crate::run::Bundles;
use crate::run::distilled::DistilledSet;
use scdd_artifacts::bundle::Bundle;
use scdd_data::Dataset;

/// Markdown, with the YAML header that dataset hubs read.
pub(super) fn card(
    set: &DistilledSet,
    bundles: &Bundles,
    images: &Dataset,
    data: &str,
    format: Format,
) -> Result<String, ExportError> {
    let (method, recipe) = &set.method;
    let teacher = &bundles[&set.teacher];
    let count = images.len();
    let Dataset { height, width, channels, .. } = images;
    let classes = images.classes.join(", ");
    let settings = serde_yaml::to_string(recipe)?;
    let title = format!(
        "{data}, distilled: {} image{} per class",
        set.ipc,
        if set.ipc == 1 { "" } else { "s" }
    );
    Ok(format!(
        "---\npretty_name: {title:?}\ntask_categories: [image-classification]\ntags: [dataset-distillation]\nlicense: other\n---\n\
         # {title}\n\n\
         {count} images, {height}×{width}, {channels} channel{}, {} classes ({classes}), made by `scdd` {}. {}{}\n\n\
         | | |\n| --- | --- |\n\
         | method | {method} |\n\
         | teacher | {} |\n\
         | images per class | {} |\n\
         | seed | {} |\n\
         | hash of settings, teacher and seed | `{}` |\n\n\
         ## Soft labels\n\n{}\n\
         ## Settings\n\n```yaml\n{settings}```\n\n\
         ## Licence\n\n\
         {} Use them under the licence of {data} and of the teacher's weights; whether anything more is allowed has not been settled.\n",
        if *channels == 1 { "" } else { "s" },
        images.classes.len(),
        env!("CARGO_PKG_VERSION"),
        layout(format),
        mosaic(recipe.formation),
        network(teacher),
        set.ipc,
        set.seed,
        set.key,
        labels(set, bundles),
        origin(set),
    ))
}

/// How the images relate to real images.
fn origin(set: &DistilledSet) -> &'static str {
    if set.method.1.is_data_free() {
        "The images were optimised from noise through a network that was trained on real images, and may show features of them."
    } else {
        "The images started from real images of the training set, and contain parts of them."
    }
}

/// Advice on how to show images that are mosaics.
fn mosaic(formation: u16) -> String {
    match formation {
        1 => String::new(),
        grid => format!(
            " Each is a mosaic of {grid} × {grid} small images, to be shown one at a time at full size."
        ),
    }
}

fn layout(format: Format) -> &'static str {
    match format {
        Format::Imagefolder => {
            "`images/<class>/` holds PNG files; sorted directories are the classes in label order."
        }
        Format::Npz => "`images.npz` holds `images`, uint8 [N, H, W, C], and `labels`, int64 [N].",
        Format::Huggingface => {
            "`train/<class>/` holds PNG files, `train/metadata.jsonl` the label and class of each."
        }
    }
}

/// Describes a bundle by name, hash and pretraining scheme.
fn network(bundle: &Bundle) -> String {
    let scheme = bundle
        .manifest
        .pretraining
        .as_ref()
        .map_or(String::new(), |p| format!(", pretrained: {}", p.scheme));
    format!("{} (SHA-256 `{}`{scheme})", bundle.name(), bundle.hash)
}

fn labels(set: &DistilledSet, bundles: &Bundles) -> String {
    if set.labels.is_empty() {
        return "None: the images' classes are their labels.\n".to_string();
    }
    let line = |(name, teacher, _): &(String, _, _)| {
        format!("- `labels/{name}.scdd`: logits of {}\n", network(&bundles[teacher]))
    };
    let files: String = set.labels.iter().map(line).collect();
    format!(
        "Each file holds the teacher's logits for augmented, mixed views of the images, with the views; image n of it is the n-th file in the order \
         of sorted class directories and names.\n\n{files}"
    )
}

#[cfg(test)]
mod tests {
    use super::mosaic;

    #[test]
    fn only_mosaics_are_called_so() {
        assert_eq!(mosaic(1), "");
        assert!(mosaic(2).contains("mosaic of 2 × 2 small images"));
    }
}
