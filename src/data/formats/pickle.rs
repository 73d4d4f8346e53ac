//! Pickles of dictionaries with one array of bytes and lists, as CIFAR's Python archives hold them.
//!
//! A pickle is a program for a machine with a stack. Only those few instructions are carried out that build
//! dictionaries, lists, texts, numbers and NumPy's arrays of bytes. Nothing is called: the two functions of NumPy that
//! such a pickle names are recognised and stand for what they make.

use anyhow::{Context, Result, bail, ensure};

/// The most objects that a pickle may make: many times those of CIFAR's largest, which has three for each image.
const MAX_OBJECTS: usize = 4_000_000;

/// An object. Those in others are their places in the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Object<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Bytes or text, which Python 2 does not tell apart.
    Bytes(&'a [u8]),
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// A function or class, as `module.name`.
    Global(String),
    /// A type of NumPy's, by its name.
    Dtype(&'a [u8]),
    /// An array of NumPy's; its shape and its bytes once they are known.
    Array(Option<(Vec<usize>, &'a [u8])>),
}

/// A pickle that has been read.
#[derive(Debug)]
pub struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    root: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle in `bytes`: a dictionary.
    ///
    /// # Errors
    /// If it is truncated, or anything but such a dictionary; the message names the offset and what was found there.
    ///
    /// # Source
    /// The instructions are described in Python's `pickletools`, the arrays in NumPy's `ndarray.__reduce__`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            bytes,
            at: 0,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        let root =
            machine.run().with_context(|| format!("pickle, before offset {}", machine.at))?;
        let is_dict = matches!(machine.objects.get(root), Some(Object::Dict(_)));
        ensure!(is_dict, "pickle: expected a dictionary");
        Ok(Self { objects: machine.objects, root })
    }

    fn get(&self, key: &str) -> Option<&Object<'a>> {
        let Some(Object::Dict(pairs)) = self.objects.get(self.root) else { return None };
        let is_key = |&&(k, _): &&(usize, usize)| matches!(self.objects.get(k), Some(Object::Bytes(found)) if *found == key.as_bytes());
        self.objects.get(pairs.iter().find(is_key)?.1)
    }

    /// The shape and the bytes of the array at `key`.
    ///
    /// # Errors
    /// If there is none.
    pub fn array(&self, key: &str) -> Result<(&[usize], &'a [u8])> {
        match self.get(key) {
            Some(Object::Array(Some((shape, bytes)))) => Ok((shape, bytes)),
            _ => bail!("expected an array of bytes `{key}`"),
        }
    }

    /// The whole numbers in the list at `key`; `None` if there is no such list.
    pub fn numbers(&self, key: &str) -> Option<Vec<i64>> {
        let Object::List(items) = self.get(key)? else { return None };
        let number = |&item: &usize| match self.objects.get(item) {
            Some(Object::Int(number)) => Some(*number),
            _ => None,
        };
        items.iter().map(number).collect()
    }

    /// The texts in the list at `key`; `None` if there is no such list.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        let Object::List(items) = self.get(key)? else { return None };
        let text = |&item: &usize| match self.objects.get(item) {
            Some(Object::Bytes(text)) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        items.iter().map(text).collect()
    }
}

/// The machine that a pickle is a program of.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<usize>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: Vec<Option<usize>>,
}

impl<'a> Machine<'a> {
    /// Carries out all instructions; the object that they leave.
    fn run(&mut self) -> Result<usize> {
        loop {
            let [instruction] = self.take()?;
            match instruction {
                // PROTO and FRAME say what is known.
                0x80 => drop(self.take::<1>()?),
                0x95 => drop(self.take::<8>()?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Object::None)?,
                0x88 => self.push(Object::Bool(true))?,
                0x89 => self.push(Object::Bool(false))?,
                b'K' => {
                    let number = u8::from_le_bytes(self.take()?);
                    self.push(Object::Int(number.into()))?;
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.take()?);
                    self.push(Object::Int(number.into()))?;
                }
                b'J' => {
                    let number = i32::from_le_bytes(self.take()?);
                    self.push(Object::Int(number.into()))?;
                }
                // Bytes and texts with a length of one byte, and of four.
                b'U' | b'C' | 0x8c => {
                    let length = u8::from_le_bytes(self.take()?);
                    let bytes = self.slice(length.into())?;
                    self.push(Object::Bytes(bytes))?;
                }
                b'T' | b'B' | b'X' => {
                    let length = u32::from_le_bytes(self.take()?);
                    let bytes = self.slice(length as usize)?;
                    self.push(Object::Bytes(bytes))?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(global(module, name))?;
                }
                0x93 => {
                    let (name, module) = (self.pop_bytes()?, self.pop_bytes()?);
                    self.push(global(module, name))?;
                }
                b'}' => self.push(Object::Dict(Vec::new()))?,
                b']' => self.push(Object::List(Vec::new()))?,
                b')' => self.push(Object::Tuple(Vec::new()))?,
                0x85..=0x87 => {
                    let count = usize::from(instruction - 0x84);
                    let from =
                        self.stack.len().checked_sub(count).context("the stack is too low")?;
                    let items = self.stack.split_off(from);
                    self.push(Object::Tuple(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Object::Tuple(items))?;
                }
                b'a' | b'e' => {
                    let items =
                        if instruction == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                    match self.top()? {
                        Object::List(list) => list.extend(items),
                        _ => bail!("expected a list"),
                    }
                }
                b's' | b'u' => {
                    let items = if instruction == b's' {
                        let (value, key) = (self.pop()?, self.pop()?);
                        vec![key, value]
                    } else {
                        self.pop_to_mark()?
                    };
                    ensure!(items.len().is_multiple_of(2), "a key lacks its value");
                    match self.top()? {
                        Object::Dict(pairs) => {
                            pairs.extend(
                                items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)),
                            );
                        }
                        _ => bail!("expected a dictionary"),
                    }
                }
                b'q' => {
                    let [place] = self.take()?;
                    self.keep(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.take()?);
                    self.keep(place as usize)?;
                }
                0x94 => self.keep(self.memo.len())?,
                b'h' => {
                    let [place] = self.take()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.take()?);
                    self.recall(place as usize)?;
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                other => {
                    bail!("instruction {other:#04x}, which pickles of arrays and lists do not have")
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = *rest.first_chunk::<N>().context("truncated")?;
        self.at += N;
        Ok(taken)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let slice = rest.get(..length).context("truncated")?;
        self.at += length;
        Ok(slice)
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').context("truncated")?;
        let line = self.slice(length)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, object: Object<'a>) -> Result<()> {
        ensure!(self.objects.len() < MAX_OBJECTS, "more than {MAX_OBJECTS} objects");
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// The place of the object on top of the stack, which is taken from there.
    fn pop(&mut self) -> Result<usize> {
        let is_free = self.marks.last().is_none_or(|&mark| self.stack.len() > mark);
        self.stack.pop().filter(|_| is_free).context("the stack is too low")
    }

    fn pop_bytes(&mut self) -> Result<&'a [u8]> {
        let place = self.pop()?;
        match self.objects.get(place) {
            Some(Object::Bytes(bytes)) => Ok(bytes),
            _ => bail!("expected a text"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>> {
        let mark = self.marks.pop().context("lacks a mark")?;
        ensure!(mark <= self.stack.len(), "the stack is too low");
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Object<'a>> {
        let place = self.stack.last().context("the stack is empty")?;
        self.objects.get_mut(*place).context("the stack is empty")
    }

    fn keep(&mut self, place: usize) -> Result<()> {
        let object = *self.stack.last().context("the stack is empty")?;
        ensure!(place < MAX_OBJECTS, "more than {MAX_OBJECTS} objects are kept");
        if self.memo.len() <= place {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(object);
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Result<()> {
        let object = self.memo.get(place).copied().flatten().context("nothing was kept there")?;
        ensure!(self.stack.len() < MAX_OBJECTS, "more than {MAX_OBJECTS} objects on the stack");
        self.stack.push(object);
        Ok(())
    }

    fn tuple(&self, place: usize) -> Result<&[usize]> {
        match self.objects.get(place) {
            Some(Object::Tuple(items)) => Ok(items),
            _ => bail!("expected a tuple"),
        }
    }

    /// What a function of NumPy would make of its arguments.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Some(Object::Global(name)) = self.objects.get(function) else {
            bail!("expected a function");
        };
        let object = match name.as_str() {
            "numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct" => {
                Object::Array(None)
            }
            "numpy.dtype" => {
                let first =
                    self.tuple(arguments)?.first().and_then(|&first| self.objects.get(first));
                let Some(Object::Bytes(name)) = first else { bail!("expected the name of a type") };
                Object::Dtype(name)
            }
            other => bail!("a call of {other:.100}, which is not carried out"),
        };
        self.push(object)
    }

    /// Gives an array its shape and bytes; a type of numbers has all that matters.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = match self.top()? {
            Object::Array(_) => *self.stack.last().context("the stack is empty")?,
            Object::Dtype(_) => return Ok(()),
            _ => bail!("expected an array"),
        };
        let items = self.tuple(state)?;
        let [_, shape, kind, is_fortran, bytes] = *items else {
            bail!("an array's state has {} parts, expected 5", items.len());
        };
        let size = |&side: &usize| match self.objects.get(side) {
            Some(Object::Int(side)) => usize::try_from(*side).ok(),
            _ => None,
        };
        let shape = self.tuple(shape)?.iter().map(size).collect::<Option<Vec<_>>>();
        let shape = shape.context("expected the shape of an array")?;
        let is_bytes =
            matches!(self.objects.get(kind), Some(Object::Dtype(kind)) if *kind == b"u1");
        let is_c = self.objects.get(is_fortran) == Some(&Object::Bool(false));
        let Some(&Object::Bytes(bytes)) = self.objects.get(bytes) else {
            bail!("expected the bytes of an array");
        };
        ensure!(is_bytes && is_c, "expected an array of unsigned bytes in C order");
        let promised = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        ensure!(
            promised == Some(bytes.len()),
            "an array of shape {shape:?} has {} bytes",
            bytes.len()
        );
        if let Some(array) = self.objects.get_mut(target) {
            *array = Object::Array(Some((shape, bytes)));
        }
        Ok(())
    }
}

fn global<'a>(module: &[u8], name: &[u8]) -> Object<'a> {
    let [module, name] = [module, name].map(String::from_utf8_lossy);
    Object::Global(format!("{module}.{name}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As Python 2 pickles `{"data": array of [rows, columns] bytes, KEY: labels}` in protocol 2.
    pub(in crate::data::formats) fn python2(
        columns: u16,
        data: &[u8],
        key: &str,
        labels: &[u8],
    ) -> Vec<u8> {
        let mut file =
            b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02".to_vec();
        file.extend(b"cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(K\x01M");
        file.extend(((data.len() / usize::from(columns)) as u16).to_le_bytes());
        file.extend(b"M");
        file.extend(columns.to_le_bytes());
        file.extend(b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff");
        file.extend(b"K\x00tb\x89T");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file.extend(b"tbU");
        file.push(key.len() as u8);
        file.extend(key.as_bytes());
        file.extend(b"q\x05]q\x06(");
        file.extend(labels.iter().flat_map(|&label| [b'K', label]));
        file.extend(b"eu.");
        file
    }

    #[test]
    fn an_array_and_a_list_are_read_as_python_2_and_3_pickle_them() -> Result<()> {
        let file = python2(3, &[1, 2, 3, 4, 5, 6], "labels", &[9, 7]);
        let pickle = Pickle::parse(&file)?;
        assert_eq!(pickle.array("data")?, (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(pickle.numbers("labels"), Some(vec![9, 7]));
        assert_eq!((pickle.numbers("data"), pickle.texts("labels")), (None, None));
        // pickle.dumps({b"names": [b"cat", b"dog"]}, 4) of Python 3.
        let names = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00}\x94C\x05names\x94]\x94(C\x03cat\x94C\x03dog\x94es.";
        let pickle = Pickle::parse(names)?;
        assert_eq!(pickle.texts("names"), Some(vec!["cat".to_owned(), "dog".to_owned()]));
        assert!(pickle.array("data").is_err());
        Ok(())
    }

    #[test]
    fn nothing_is_called_and_what_is_no_such_dictionary_is_an_error() {
        for (file, told) in [
            (
                &b"\x80\x02cos\nsystem\nU\x04trueq\x00\x85R."[..],
                "a call of os.system, which is not carried out",
            ),
            (b"\x80\x02]q\x00.", "expected a dictionary"),
            (b"}i", "instruction 0x69"),
            (b"}", "truncated"),
            (b"", "truncated"),
            (b"t", "lacks a mark"),
            (b"}(U\x01au.", "a key lacks its value"),
            (b"h\x05", "nothing was kept there"),
            (b"U\xffabc", "truncated"),
            (b"(.", "the stack is too low"),
        ] {
            let error = format!("{:#}", Pickle::parse(file).unwrap_err());
            assert!(error.contains(told), "{told}: {error}");
        }
        let whole = python2(3, &[1, 2, 3, 4, 5, 6], "labels", &[9, 7]);
        for length in 0..whole.len() {
            assert!(Pickle::parse(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                let _ = Pickle::parse(&file);
            }
        }
    }
}
