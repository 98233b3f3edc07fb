//! Compares a network's class names with the class names of data or of another network: both must
//! number their classes alike.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::LazyLock;

use scdd_data::registry;

/// The number of names that a message lists.
const SHOWN: usize = 4;

/// The result of comparing two lists of class names, index by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The number of classes with the same name at the same index.
    pub same: usize,
    /// Names that both lists have at different indices: the first list's index, the second's.
    pub moved: Vec<(usize, usize)>,
    /// Indices whose names match no name of the other list.
    pub strange: Vec<usize>,
}

impl Agreement {
    /// Compares `network`'s names with `other`'s; both have the same length.
    ///
    /// Case, `_`, `-` and spaces are ignored, and so is the index at the beginning of a written
    /// set's directory names. If a class has several names, as in `tench, Tinca tinca`, one common
    /// name is enough. A WordNet ID matches its name in the [registry] too.
    pub fn of(network: &[String], other: &[String]) -> Self {
        let (own, others) = (all_keys(network), all_keys(other));
        let is_same =
            |index: usize| others.get(index).is_some_and(|other| !own[index].is_disjoint(other));
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for index in (0..others.len()).filter(|&index| index >= own.len() || !is_same(index)) {
            others[index].iter().for_each(|key| places.entry(key).or_default().push(index));
        }
        let mut found = Self { same: 0, moved: Vec::new(), strange: Vec::new() };
        for (index, names) in own.iter().enumerate() {
            let elsewhere = names.iter().filter_map(|key| places.get(key.as_str())).flatten().min();
            match elsewhere {
                _ if is_same(index) => found.same += 1,
                Some(&place) => found.moved.push((index, place)),
                None => found.strange.push(index),
            }
        }
        found
    }
}

/// All keys by which the class `index`, called `name`, is matched.
fn keys(index: usize, name: &str) -> BTreeSet<String> {
    let name = without_index(index, name);
    let all = [Some(name), READABLE.get(name).copied()].into_iter().flatten();
    all.flat_map(|name| std::iter::once(name).chain(name.split(',')))
        .map(plain)
        .filter(|key| !key.is_empty())
        .collect()
}

fn all_keys(names: &[String]) -> Vec<BTreeSet<String>> {
    names.iter().enumerate().map(|(index, name)| keys(index, name)).collect()
}

/// The readable name of each WordNet ID in the registry.
static READABLE: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let classes = registry::names()
        .iter()
        .filter_map(|name| registry::find(name))
        .flat_map(|set| &set.classes);
    classes.filter_map(|class| Some((class.wnid()?, class.name()))).collect()
});

/// Turns `03_dress`, the directory name of class 3 in a written set, into `dress`.
fn without_index(index: usize, name: &str) -> &str {
    match name.split_once('_') {
        Some((digits, rest))
            if digits.len() > 1 && digits.parse() == Ok(index) && !rest.is_empty() =>
        {
            rest
        }
        _ => name,
    }
}

/// Letters and digits in lower case; leading zeros of numbers are dropped.
fn plain(name: &str) -> String {
    let key: String = name
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    match key.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => key,
    }
}

/// Names of both lists for messages, and the remedy if they differ.
pub struct Sides<'a> {
    /// For example ``bundle `x` ``.
    pub network: &'a str,
    /// For example the data set's name.
    pub other: &'a str,
    /// For example ``an image folder gets the bundle's order from a `data.class_map` ``.
    pub remedy: &'a str,
}

/// Checks that `network` and `other` have the same classes in the same order. Returns a remark if
/// the names neither confirm nor refute it.
///
/// # Errors
/// When the numbers of classes differ, or a name has different indices, which would make labels
/// wrong. The message names the classes.
pub fn check(
    network: &[String],
    other: &[String],
    sides: &Sides,
) -> Result<Option<String>, String> {
    let Sides { network: own, other: its, remedy } = sides;
    if network.len() != other.len() {
        return Err(other_count(network, other, sides));
    }
    let found = Agreement::of(network, other);
    if !found.moved.is_empty() {
        let name = |&(a, b): &(usize, usize)| {
            format!("`{}` is class {a} of {own} and class {b} of {its}", network[a])
        };
        let named = listed(found.moved.len(), found.moved.iter().map(name));
        return Err(format!("numbers its classes in another order than {its}: {named}; {remedy}"));
    }
    if found.strange.is_empty() {
        return Ok(None);
    }
    let name =
        |&i: &usize| format!("class {i} is `{}` in {own} and `{}` in {its}", network[i], other[i]);
    let named = listed(found.strange.len(), found.strange.iter().map(name));
    let extent = match found.same {
        0 => format!("no class of {its} is called as in {own}"),
        _ => format!(
            "{} of {} classes of {its} are called otherwise in {own}",
            found.strange.len(),
            network.len()
        ),
    };
    Ok(Some(format!(
        "{extent}, so names don't show that they are the same: {named}. If they are not, labels are wrong: {remedy}"
    )))
}

fn other_count(
    network: &[String],
    other: &[String],
    Sides { other: its, remedy, .. }: &Sides,
) -> String {
    let lacking = |of: &[String], from: &[String]| -> Vec<String> {
        let known: BTreeSet<String> = all_keys(from).into_iter().flatten().collect();
        of.iter()
            .zip(all_keys(of))
            .filter(|(_, keys)| keys.is_disjoint(&known))
            .map(|(n, _)| format!("`{n}`"))
            .collect()
    };
    let (missing, extra) = (lacking(network, other), lacking(other, network));
    let mut text = format!("has {} classes, {its} has {}", network.len(), other.len());
    // If the lists have nothing in common, listing the missing names does not help.
    if missing.len() < network.len() {
        for (what, names) in [("lacks", &missing), ("adds", &extra)] {
            if !names.is_empty() {
                let _ =
                    write!(text, ", {its} {what} {}", listed(names.len(), names.iter().cloned()));
            }
        }
        let _ = write!(text, "; {remedy}");
    }
    text
}

/// Lists the first of `count` parts and counts the rest.
fn listed(count: usize, parts: impl Iterator<Item = String>) -> String {
    let shown: Vec<String> = parts.take(SHOWN).collect();
    let more = count.saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<String> {
        list.split('|').map(String::from).collect()
    }

    fn compare(network: &str, other: &str) -> Result<Option<String>, String> {
        let sides = Sides { network: "`net`", other: "toy", remedy: "give a `data.class_map`" };
        check(&names(network), &names(other), &sides)
    }

    #[test]
    fn spelling_and_synonyms_do_not_count() {
        for (network, other) in [
            ("ant|bee", "ant|bee"),
            ("T-shirt/top|Ankle boot", "t_shirt_top|ankle-boot"),
            ("T-shirt/top|Ankle boot", "00_t-shirt-top|01_ankle-boot"),
            ("tench|goldfish", "n01440764|Goldfish, Carassius auratus"),
            ("0|1|2", "00000|00001|00002"),
            // ImageNet has two classes of this name.
            ("crane|ant|crane", "crane|ant|crane"),
        ] {
            assert_eq!(compare(network, other), Ok(None), "{network} {other}");
        }
    }

    #[test]
    fn a_name_at_another_place_is_an_error_that_names_it() {
        let swapped = compare("ant|bee|cat", "bee|ant|cat").unwrap_err();
        assert_eq!(
            swapped,
            "numbers its classes in another order than toy: `ant` is class 0 of `net` and class 1 of toy, `bee` is class 1 of `net` and class 0 of \
             toy; give a `data.class_map`"
        );
        // Some names are unknown, and a known name has another index.
        let moved = compare("ant|bee|cat", "x|ant|y").unwrap_err();
        assert!(moved.contains("`ant` is class 0 of `net` and class 1 of toy; "), "{moved}");
        // Numbers sorted as text.
        let text = compare("0|1|2|3|4|5|6|7|8|9|10", "0|1|10|2|3|4|5|6|7|8|9").unwrap_err();
        assert!(
            text.contains("`2` is class 2 of `net` and class 3 of toy")
                && text.contains("and 5 more"),
            "{text}"
        );
    }

    #[test]
    fn strange_names_are_a_remark() {
        let none = compare("ant|bee", "n0|n1").unwrap().unwrap();
        assert!(none.starts_with("no class of toy is called as in `net`"), "{none}");
        assert!(
            none.contains("class 1 is `bee` in `net` and `n1` in toy")
                && none.contains("class_map"),
            "{none}"
        );
        let some = compare("ant|bee|cat", "ant|bee|kitten").unwrap().unwrap();
        assert!(some.starts_with("1 of 3 classes of toy are called otherwise"), "{some}");
        // An index is removed only if it is the class's own.
        assert!(compare("dress|coat", "03_dress|04_coat").unwrap().is_some());
    }

    #[test]
    fn another_number_of_classes_is_an_error_that_names_the_difference() {
        let message = compare("ant|bee|cat", "ant|cow|bee|dog").unwrap_err();
        assert_eq!(
            message,
            "has 3 classes, toy has 4, toy lacks `cat`, toy adds `cow`, `dog`; give a `data.class_map`"
        );
        assert_eq!(compare("ant|bee", "x|y|z").unwrap_err(), "has 2 classes, toy has 3");
    }
}
