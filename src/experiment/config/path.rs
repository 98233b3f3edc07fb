//! YAML paths such as `teachers[1]` and `recover.crop.scale[0]`.

use serde_yaml::Value;

/// One step from a node to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

/// The steps of a path, or `None` if it is malformed.
pub(super) fn parse(path: &str) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    for piece in path.split('.') {
        let (key, indices) = piece.split_at(piece.find('[').unwrap_or(piece.len()));
        if key.is_empty() {
            return None;
        }
        segments.push(Segment::Key(key.to_string()));
        for index in indices.split_inclusive(']') {
            let digits = index.strip_prefix('[')?.strip_suffix(']')?;
            segments.push(Segment::Index(digits.parse().ok()?));
        }
    }
    Some(segments)
}

/// The value at `path` below `node`.
pub(super) fn at<'a>(node: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter().try_fold(node, |node, segment| match segment {
        Segment::Key(key) => node.get_mut(key.as_str()),
        Segment::Index(index) => node.get_mut(*index),
    })
}

/// Formats a path in the form that [`parse`] reads.
pub(super) fn written(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Key(key) if text.is_empty() => text.push_str(key),
            Segment::Key(key) => text.extend([".", key]),
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}
