//! Finds a YAML path in the text. A deserialiser walks down the path and fails deliberately at the
//! wanted key; the parser adds the location to that error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::Segment;

/// The line and column (from 1) of `path` in `text`, or of its longest existing prefix.
pub(super) fn position(text: &str, path: &[Segment]) -> Option<(usize, usize)> {
    (1..=path.len()).rev().find_map(|length| exact(text, &path[..length]))
}

fn exact(text: &str, path: &[Segment]) -> Option<(usize, usize)> {
    let outcome = Walk(path).deserialize(serde_yaml::Deserializer::from_str(text));
    let error = outcome.err().filter(|error| error.to_string().contains(FOUND))?;
    error.location().map(|location| (location.line(), location.column()))
}

const FOUND: &str = "found the wanted key";

/// Walks down `path` and skips everything beside it.
struct Walk<'a>(&'a [Segment]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            [] => Err(D::Error::custom(FOUND)),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [Segment::Key(wanted), rest @ ..] = self.0 else {
            return Err(A::Error::custom("not a list"));
        };
        while let Some(matches) = map.next_key_seed(Key { wanted, last: rest.is_empty() })? {
            if matches {
                return map.next_value_seed(Walk(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let [Segment::Index(wanted), rest @ ..] = self.0 else {
            return Err(A::Error::custom("not a mapping"));
        };
        for _ in 0..*wanted {
            sequence.next_element::<IgnoredAny>()?;
        }
        sequence.next_element_seed(Element(rest)).map(|_| ())
    }
}

/// A list's wanted element. If the path ends here, its first event is an error.
struct Element<'a>(&'a [Segment]);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            [] => deserializer.deserialize_any(Stop),
            rest => Walk(rest).deserialize(deserializer),
        }
    }
}

/// Fails at any scalar, list or mapping.
struct Stop;

impl<'de> Visitor<'de> for Stop {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(FOUND)
    }
}

/// Compares a mapping's key. If the path ends here, the wanted key is an error.
struct Key<'a> {
    wanted: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.last) {
            (true, true) => Err(E::custom(FOUND)),
            (matches, _) => Ok(matches),
        }
    }
}
