//! YAML paths such as `teachers[1]` and `recover.crop.scale[0]`.

/// One step from a node to a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

/// The steps of a path; `None` where it is malformed.
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
