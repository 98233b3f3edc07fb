//! Error texts for unreadable files.

use std::io;
use std::path::Path;

/// The system's error for `path`. For a missing relative path it adds the directory that relative
/// paths start from.
pub fn said(path: &Path, error: &io::Error) -> String {
    match (error.kind(), std::env::current_dir()) {
        (io::ErrorKind::NotFound, Ok(here)) if path.is_relative() => {
            format!("{error}; relative paths start at {}", here.display())
        }
        (io::ErrorKind::InvalidData, _) => format!("{error}; save it as UTF-8 text"),
        _ => error.to_string(),
    }
}

/// `text` without the byte order mark that some editors put first.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// `text` with control and invisible formatting characters escaped, so that it can neither control
/// a terminal nor pass for other text.
pub fn printable(text: &str) -> String {
    let escape = |letter: char| match letter {
        '\n' | '\t' => letter.to_string(),
        _ if is_invisible(letter) => letter.escape_default().to_string(),
        _ => letter.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Whether `letter` is a control character, or one of Unicode's direction or zero-width characters.
pub fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_relative_path_is_told_with_its_start() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let here = std::env::current_dir().unwrap();
        let told = said(Path::new("a/b"), &missing());
        assert!(told.ends_with(&format!("; relative paths start at {}", here.display())), "{told}");
        assert!(!said(Path::new("/a/b"), &missing()).contains("relative"));
        assert!(
            !said(Path::new("a"), &io::Error::from(io::ErrorKind::PermissionDenied))
                .contains("relative")
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c\r\nd\té"), "a\\u{1b}[31mb\\u{202e}c\\r\nd\té");
        assert_eq!(without_mark("\u{feff}name: x"), "name: x");
    }
}
