//! Tells which class of the real data each class of a finished set is: by a class map, by its name,
//! or by its number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::entries::listed;
use crate::layout::folder::plain;
use crate::{DataError, registry};

const REMEDY: &str = "set `class_map` to a YAML file with a line `its name: class` for each class";

/// For each of the set's own `names` the number of its class among `classes` of the data called
/// `data`. A class map has names of the set and names of classes.
///
/// # Errors
/// When a class can't be told, or two are the same.
pub(super) fn numbers(
    place: &Path,
    names: &[String],
    (data, classes): (&str, &[String]),
    map: Option<&[(String, String)]>,
) -> Result<Vec<u32>, DataError> {
    let refuse = |problem: String| DataError::invalid(place, problem, REMEDY);
    if let Some(map) = map {
        return mapped(names, (data, classes), map).map_err(refuse);
    }
    if let Some(numbers) = by_name(names, classes) {
        return Ok(numbers);
    }
    by_number(names, classes.len()).ok_or_else(|| {
        let known = all_keys(classes);
        let strange = names.iter().filter(|name| find(name, &known).is_none());
        let strange: Vec<String> = strange.map(|name| format!("`{name}`")).collect();
        let count = classes.len();
        refuse(match strange.len() {
            0 => "calls two of its classes alike".to_owned(),
            _ => format!(
                "has classes {} that are neither called like those of {data} nor numbered 0 to {}",
                listed(strange.into_iter()),
                count.saturating_sub(1)
            ),
        })
    })
}

fn mapped(
    names: &[String],
    (data, classes): (&str, &[String]),
    map: &[(String, String)],
) -> Result<Vec<u32>, String> {
    let known = all_keys(classes);
    let number = |name: &String| {
        let (_, class) = map
            .iter()
            .find(|(own, _)| own == name)
            .ok_or_else(|| format!("has the class `{name}`, which the class map does not name"))?;
        find(class, &known).ok_or_else(|| {
            format!("has a class map that names `{class}`, which is no class of {data}")
        })
    };
    names.iter().map(number).collect()
}

fn by_name(names: &[String], classes: &[String]) -> Option<Vec<u32>> {
    let known = all_keys(classes);
    distinct(names.iter().map(|name| find(name, &known)).collect::<Option<Vec<u32>>>()?)
}

/// `None` if two are equal.
fn distinct(numbers: Vec<u32>) -> Option<Vec<u32>> {
    let different: BTreeSet<&u32> = numbers.iter().collect();
    (different.len() == numbers.len()).then_some(numbers)
}

/// Numbers as `00012`, `new012` (SRe2L) or `12_name` (`scdd export-set`) have them, from 0 or, if
/// there are as many as classes, from 1.
fn by_number(names: &[String], classes: usize) -> Option<Vec<u32>> {
    let at_end = |name: &String| {
        let start = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
        Some((name[..start].to_owned(), name[start..].parse().ok()?))
    };
    let in_front = |name: &String| Some((String::new(), name.split_once('_')?.0.parse().ok()?));
    let common = |numbered: Option<Vec<(String, u32)>>| {
        let numbered = numbered.filter(|all| all.windows(2).all(|two| two[0].0 == two[1].0))?;
        distinct(numbered.into_iter().map(|(_, number)| number).collect())
    };
    let found = common(names.iter().map(in_front).collect())
        .or_else(|| common(names.iter().map(at_end).collect()))?;
    let (least, most) = (*found.iter().min()?, *found.iter().max()? as usize);
    if most < classes {
        return Some(found);
    }
    let from_one = least == 1 && most == classes && found.len() == classes;
    from_one.then(|| found.into_iter().map(|number| number - 1).collect())
}

/// The class of each key by which names are compared; a key of several classes has none.
fn all_keys(classes: &[String]) -> BTreeMap<String, Option<u32>> {
    let mut known = BTreeMap::new();
    for (number, class) in (0..).zip(classes) {
        for key in keys(class) {
            let place = known.entry(key).or_insert(Some(number));
            *place = place.filter(|same| *same == number);
        }
    }
    known
}

fn find(name: &str, known: &BTreeMap<String, Option<u32>>) -> Option<u32> {
    let own = |name: &str| keys(name).iter().find_map(|key| known.get(key).copied().flatten());
    // `03_dress` is how a written set calls `Dress`.
    let without_number = name.split_once('_').filter(|(digits, _)| digits.parse::<u32>().is_ok());
    own(name).or_else(|| own(without_number?.1))
}

/// Letters and digits of the name, of its first synonym, and of the class that a WordNet id names.
fn keys(name: &str) -> BTreeSet<String> {
    let first = name.split(',').next().unwrap_or(name);
    let sets = registry::names().iter().filter_map(|set| registry::find(set));
    let meant = sets.flat_map(|set| &set.classes).find(|class| class.wnid() == Some(name));
    let all = [Some(name), Some(first), meant.map(|class| class.name())];
    all.into_iter().flatten().map(plain).filter(|key| !key.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn told(names: &[&str], classes: &[&str]) -> Result<Vec<u32>, String> {
        let found = numbers(Path::new("set"), &texts(names), ("toy", &texts(classes)), None);
        found.map_err(|error| error.to_string())
    }

    #[test]
    fn names_come_before_numbers() {
        let classes = ["T-shirt/top", "Trouser", "Bag"];
        assert_eq!(told(&["bag", "t_shirt_top", "TROUSER"], &classes).unwrap(), [2, 0, 1]);
        assert_eq!(told(&["00_bag", "01_t-shirt-top", "02_trouser"], &classes).unwrap(), [2, 0, 1]);
        assert_eq!(told(&["new000", "new002", "new001"], &classes).unwrap(), [0, 2, 1]);
        assert_eq!(told(&["00000", "00002"], &classes).unwrap(), [0, 2]);
        assert_eq!(told(&["1", "2", "3"], &classes).unwrap(), [0, 1, 2]);
        assert_eq!(told(&["2_x", "0_y", "1_z"], &classes).unwrap(), [2, 0, 1]);
        // The classes' own names may be numbers.
        assert_eq!(told(&["1", "2"], &["2", "1"]).unwrap(), [1, 0]);
    }

    #[test]
    fn wordnet_ids_are_names() {
        let wnids = ["n01443537", "n01440764"];
        assert_eq!(told(&wnids, &["tench", "goldfish"]).unwrap(), [1, 0]);
        assert_eq!(told(&["tench, Tinca tinca", "n01443537"], &wnids).unwrap(), [1, 0]);
    }

    #[test]
    fn what_is_no_class_is_named() {
        let classes = ["cat", "dog"];
        let message = told(&["cat", "cow"], &classes).unwrap_err();
        assert!(
            message.contains(
                "classes `cow` that are neither called like those of toy nor numbered 0 to 1"
            ) && message.contains("class_map"),
            "{message}"
        );
        assert!(told(&["new0", "new7"], &classes).unwrap_err().contains("`new7`"));
        assert!(told(&["cat", "CAT"], &classes).unwrap_err().contains("alike"));
    }

    #[test]
    fn a_map_comes_before_all() {
        let by = |pairs: &[(&str, &str)]| {
            let map: Vec<_> =
                pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            let (names, classes) = (texts(&["0", "1"]), texts(&["cat", "dog"]));
            numbers(Path::new("set"), &names, ("toy", &classes), Some(&map))
                .map_err(|error| error.to_string())
        };
        assert_eq!(by(&[("0", "dog"), ("1", "cat")]).unwrap(), [1, 0]);
        assert!(by(&[("0", "dog")]).unwrap_err().contains("the class `1`, which the class map"));
        assert!(
            by(&[("0", "cow"), ("1", "cat")]).unwrap_err().contains("`cow`, which is no class")
        );
    }
}
