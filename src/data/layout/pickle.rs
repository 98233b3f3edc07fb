//! Reads the pickled dictionaries of CIFAR's Python version, and the tensors of PyTorch's files.
//! Nothing is executed.
//!
//! Only the contents of such files are understood: dictionaries, lists, tuples, strings, numbers,
//! and the [`objects`](super::objects) of NumPy and PyTorch (opcodes: Python's `pickletools`;
//! protocols 2 to 4). Memory is bounded by the file's length, nesting by [`MAX_DEPTH`].

use std::collections::HashMap;

use super::objects::{TensorPlace, built, persistent, reduced};

/// The deepest nesting. CIFAR's files have three levels.
const MAX_DEPTH: usize = 16;
/// The most values. CIFAR-100's training file has 150,000 labels and names.
const MAX_VALUES: usize = 2_000_000;
/// The longest name of a class or function.
const MAX_NAME: usize = 256;

/// A value of the pickled file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PickleValue<'a> {
    None,
    Int(i64),
    Float(f64),
    /// A string or a byte string.
    Bytes(&'a [u8]),
    List(Vec<PickleValue<'a>>),
    Tuple(Vec<PickleValue<'a>>),
    Dict(Vec<(PickleValue<'a>, PickleValue<'a>)>),
    /// The name of a class or function.
    Global(String),
    /// A NumPy element type, such as `u1`.
    DType(&'a [u8]),
    /// A NumPy array in C order: its shape, element type and bytes.
    Array {
        shape: Vec<usize>,
        dtype: &'a [u8],
        bytes: &'a [u8],
    },
    /// The numbers of PyTorch's tensors, in a file beside the pickle: their type, such as
    /// `FloatStorage`, and that file's name.
    Storage {
        dtype: &'a str,
        key: &'a [u8],
    },
    /// A tensor of PyTorch.
    Tensor(TensorPlace<'a>),
}

impl<'a> PickleValue<'a> {
    /// The value of `key` in a dictionary.
    pub fn get(&self, key: &str) -> Option<&PickleValue<'a>> {
        match self {
            PickleValue::Dict(entries) => entries
                .iter()
                .find(|(name, _)| *name == PickleValue::Bytes(key.as_bytes()))
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The elements of a list or tuple.
    pub fn items(&self) -> Option<&[PickleValue<'a>]> {
        match self {
            PickleValue::List(items) | PickleValue::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The string, if the value is valid UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        match self {
            PickleValue::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The integers of a list, or of an array of one dimension.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        let int = |value: &PickleValue| {
            if let PickleValue::Int(number) = value { Some(*number) } else { None }
        };
        match self {
            PickleValue::List(items) | PickleValue::Tuple(items) => items.iter().map(int).collect(),
            PickleValue::Array { shape, dtype, bytes } if shape.len() == 1 => match *dtype {
                b"u1" => Some(bytes.iter().map(|&byte| byte.into()).collect()),
                b"i8" => {
                    let (eights, []) = bytes.as_chunks::<8>() else { return None };
                    Some(eights.iter().map(|eight| i64::from_le_bytes(*eight)).collect())
                }
                b"i4" => {
                    let (fours, []) = bytes.as_chunks::<4>() else { return None };
                    Some(fours.iter().map(|four| i32::from_le_bytes(*four).into()).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// Reads the object in `bytes`. The error text says why it is refused.
pub(crate) fn read(bytes: &[u8]) -> Result<PickleValue<'_>, String> {
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    for _ in 0..2 * MAX_VALUES {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(value)) => return Ok(value),
            Err(PickleFault::Short) => return Err("ends early".into()),
            Err(PickleFault::Wrong(what)) => return Err(format!("{what} at byte {at}")),
        }
    }
    Err(format!("holds more than {MAX_VALUES} values"))
}

pub(super) enum PickleFault {
    /// The bytes end within an instruction.
    Short,
    Wrong(String),
}

pub(super) type PickleStep<T> = Result<T, PickleFault>;

pub(super) fn wrong<T>(what: impl Into<String>) -> PickleStep<T> {
    Err(PickleFault::Wrong(what.into()))
}

/// A value and its nesting depth.
type Nested<'a> = (PickleValue<'a>, usize);

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Nested<'a>>,
    /// The stack's length at each mark.
    marks: Vec<usize>,
    /// Stored values that later instructions may fetch. `None` stands for containers, which change
    /// after they are stored.
    memo: HashMap<u32, Option<PickleValue<'a>>>,
}

impl<'a> Machine<'a> {
    /// Executes one instruction. Returns the result if it was the last one.
    fn step(&mut self) -> PickleStep<Option<PickleValue<'a>>> {
        match self.byte()? {
            0x80 => match self.byte()? {
                2..=4 => {}
                protocol => {
                    return wrong(format!(
                        "is of pickle protocol {protocol}, of which 2 to 4 are read"
                    ));
                }
            },
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(Some(self.pop()?.0)),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(PickleValue::None),
            0x88 => self.push(PickleValue::Int(1)),
            0x89 => self.push(PickleValue::Int(0)),
            b'K' => {
                let number = self.byte()?;
                self.push(PickleValue::Int(number.into()));
            }
            b'M' => {
                let number = self.unsigned(2)?;
                self.push(PickleValue::Int(number as i64));
            }
            b'J' => {
                let number = self.unsigned(4)? as u32;
                self.push(PickleValue::Int((number as i32).into()));
            }
            0x8A => {
                let length = usize::from(self.byte()?);
                let number = self.long(length)?;
                self.push(PickleValue::Int(number));
            }
            b'G' => {
                let number = f64::from_bits(self.unsigned(8)?.swap_bytes());
                self.push(PickleValue::Float(number));
            }
            b'U' | b'C' | 0x8C => self.bytes_of(1)?,
            b'T' | b'B' | b'X' => self.bytes_of(4)?,
            0x8E | 0x8D => self.bytes_of(8)?,
            b'}' => self.push(PickleValue::Dict(Vec::new())),
            b']' => self.push(PickleValue::List(Vec::new())),
            b')' => self.push(PickleValue::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push_tuple(items)?;
            }
            count @ 0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(count - 0x84));
                let Some(start) =
                    start.filter(|start| self.marks.last().is_none_or(|mark| mark <= start))
                else {
                    return wrong("takes more than there is");
                };
                let items = self.stack.split_off(start);
                self.push_tuple(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            b'q' => {
                let key = self.unsigned(1)?;
                self.remember(key as u32)?;
            }
            b'r' => {
                let key = self.unsigned(4)?;
                self.remember(key as u32)?;
            }
            // Protocol 4 numbers memo entries itself.
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.unsigned(1)?;
                self.recall(key as u32)?;
            }
            b'j' => {
                let key = self.unsigned(4)?;
                self.recall(key as u32)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(PickleValue::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?.0, self.pop()?.0);
                let short = |text: &&str| text.len() <= MAX_NAME;
                let (Some(module), Some(name)) =
                    (module.text().filter(short), name.text().filter(short))
                else {
                    return wrong("names a class by something else than a short string");
                };
                self.push(PickleValue::Global(format!("{module}.{name}")));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?.0, self.pop()?.0);
                self.push(reduced(function, arguments)?);
            }
            b'Q' => {
                let name = self.pop()?.0;
                self.push(persistent(name)?);
            }
            b'b' => {
                let (state, object) = (self.pop()?.0, self.pop()?.0);
                self.push(built(object, state)?);
            }
            other => {
                return wrong(format!(
                    "has the opcode {other:#04x}, which files of arrays don't use"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> PickleStep<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or(PickleFault::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleFault::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> PickleStep<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of `length` bytes.
    fn unsigned(&mut self, length: usize) -> PickleStep<u64> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A signed little-endian number of `length` bytes, at most 8.
    fn long(&mut self, length: usize) -> PickleStep<i64> {
        let unused = match length {
            0 => return Ok(0),
            1..=8 => 64 - 8 * length as u32,
            _ => return wrong("has a number of more than 8 bytes"),
        };
        Ok(((self.unsigned(length)? << unused) as i64) >> unused)
    }

    fn line(&mut self) -> PickleStep<&'a str> {
        let rest = &self.bytes[self.at..];
        let rest = &rest[..rest.len().min(MAX_NAME)];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleFault::Short)?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).or_else(|_| wrong("has a name that is no text"))
    }

    /// Pushes a byte string whose length is in the next `digits` bytes.
    fn bytes_of(&mut self, digits: usize) -> PickleStep<()> {
        let length = self.unsigned(digits)?;
        let bytes = self.take(usize::try_from(length).map_err(|_| PickleFault::Short)?)?;
        self.push(PickleValue::Bytes(bytes));
        Ok(())
    }

    fn push(&mut self, value: PickleValue<'a>) {
        self.stack.push((value, 0));
    }

    fn push_tuple(&mut self, items: Vec<Nested<'a>>) -> PickleStep<()> {
        let depth = depth_around(0, &items)?;
        self.stack
            .push((PickleValue::Tuple(items.into_iter().map(|(item, _)| item).collect()), depth));
        Ok(())
    }

    /// Pops the top of the stack, but nothing below the last mark.
    fn pop(&mut self) -> PickleStep<Nested<'a>> {
        if self.marks.last().is_some_and(|&mark| self.stack.len() <= mark) {
            return wrong("takes more than there is");
        }
        self.stack.pop().ok_or_else(|| PickleFault::Wrong("takes more than there is".into()))
    }

    /// Pops all values since the last mark.
    fn pop_mark(&mut self) -> PickleStep<Vec<Nested<'a>>> {
        let Some(mark) = self.marks.pop() else { return wrong("pops to a mark that was not set") };
        // Values below a mark can't be popped, so the stack is at least as long as the mark.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn append(&mut self, items: Vec<Nested<'a>>) -> PickleStep<()> {
        let Some((PickleValue::List(list), depth)) = self.stack.last_mut() else {
            return wrong("appends to no list");
        };
        *depth = depth_around(*depth, &items)?;
        list.extend(items.into_iter().map(|(item, _)| item));
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Nested<'a>>) -> PickleStep<()> {
        let Some((PickleValue::Dict(dict), depth)) = self.stack.last_mut() else {
            return wrong("sets an entry in something that is not a dictionary");
        };
        *depth = depth_around(*depth, &items)?;
        if !items.len().is_multiple_of(2) {
            return wrong("sets a key without a value");
        }
        let mut items = items.into_iter().map(|(item, _)| item);
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> PickleStep<()> {
        let Some((value, _)) = self.stack.last() else {
            return wrong("stores a value of an empty stack");
        };
        let kept = match value {
            PickleValue::List(_) | PickleValue::Dict(_) | PickleValue::Tuple(_) => None,
            value => Some(value.clone()),
        };
        self.memo.insert(key, kept);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> PickleStep<()> {
        match self.memo.get(&key) {
            Some(Some(value)) => {
                let value = value.clone();
                self.push(value);
                Ok(())
            }
            Some(None) => wrong("uses a list, tuple or dictionary twice"),
            None => wrong("uses what was not stored"),
        }
    }
}

/// The depth of a value of depth `own` after `items` are added to it.
fn depth_around(own: usize, items: &[Nested]) -> PickleStep<usize> {
    let depth = items.iter().map(|(_, depth)| depth + 1).max().unwrap_or(0).max(own);
    if depth > MAX_DEPTH {
        wrong(format!("is nested more than {MAX_DEPTH} levels deep"))
    } else {
        Ok(depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as Python 2 wrote it: strings as `U`, an array of bytes `[2, 3]`.
    pub fn official(labels: &[u8]) -> Vec<u8> {
        let mut bytes =
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x04onceq\x03U\x06labelsq\x04]q\x05(".to_vec();
        labels.iter().for_each(|&label| bytes.extend([b'K', label]));
        bytes.extend(b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01");
        bytes.extend(b"K\x02K\x03\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
        bytes.extend(b"\x89U\x06\x01\x02\x03\x04\x05\x06tbu.");
        bytes
    }

    #[test]
    fn the_official_form_is_read() {
        let bytes = official(&[7, 9]);
        let value = read(&bytes).unwrap();
        assert_eq!(value.get("labels").unwrap().numbers().unwrap(), [7, 9]);
        assert_eq!(value.get("batch_label").unwrap().text(), Some("once"));
        let expected =
            PickleValue::Array { shape: vec![2, 3], dtype: b"u1", bytes: &[1, 2, 3, 4, 5, 6] };
        assert_eq!(value.get("data"), Some(&expected));
        assert_eq!(value.get("nothing"), None);
    }

    /// What `pickle.dumps({"labels": numpy.array([3, -1]), "names": ["a"]}, protocol=4)` writes.
    #[test]
    fn protocol_4_is_read() {
        let mut bytes =
            b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x06labels\x94\x8c\x16numpy._core.multiarray\x94"
                .to_vec();
        bytes.extend(b"\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02\x85\x94");
        bytes.extend(b"h\x05\x8c\x05dtype\x94\x93\x94\x8c\x02i8\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x10");
        bytes.extend(3i64.to_le_bytes().iter().chain(&(-1i64).to_le_bytes()));
        bytes.extend(b"\x94t\x94b\x8c\x05names\x94]\x94\x8c\x01a\x94au.");
        let value = read(&bytes).unwrap();
        assert_eq!(value.get("labels").unwrap().numbers().unwrap(), [3, -1]);
        assert_eq!(value.get("names").unwrap().items().unwrap()[0].text(), Some("a"));
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        let deep = [vec![0x80, 2], vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
        let many = [vec![b'('], vec![b'N'; 2 * MAX_VALUES + 1]].concat();
        let cases: [(&[u8], &str); 13] = [
            (
                b"cos\nsystem\n(U\x02lstR.",
                "calls \"os.system\", which is no array of numbers at byte",
            ),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.", "calls \"os.system\""),
            (b"(ios\nsystem\n.", "has the opcode 0x69, which files of arrays don't use at byte 1"),
            (b"cos\nsystem\n)\x81.", "has the opcode 0x81"),
            (&deep, "is nested more than 16 levels deep"),
            (&many, "holds more than 2000000 values"),
            (b"\x80\x05.", "is of pickle protocol 5, of which 2 to 4 are read"),
            (b"T\xff\xff\xff\x7fabc", "ends early"),
            (b"(K\x01\x86.", "takes more than there is"),
            (b"h\x07.", "uses what was not stored"),
            (b"]q\x00h\x00.", "uses a list, tuple or dictionary twice"),
            (b"}(K\x01u.", "sets a key without a value"),
            (b"", "ends early"),
        ];
        for (bytes, expected) in cases {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let mut lying = official(&[1]);
        let at = lying.windows(4).position(|four| four == b"K\x02K\x03").unwrap();
        lying[at + 1] = 200;
        assert!(read(&lying).unwrap_err().contains("has an array of shape [200, 3] in 6 bytes"));
    }

    /// Any damaged or missing byte gives an error or a value, never a panic.
    #[test]
    fn damaged_files_never_panic() {
        let whole = official(&[1, 2]);
        for at in 0..whole.len() {
            assert!(read(&whole[..at]).is_err());
            for flip in 1..=255 {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                let _ = read(&damaged);
            }
        }
    }
}
