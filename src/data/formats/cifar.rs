//! CIFAR-10 and CIFAR-100 as they are published: archives of batches, binary ones or those for Python.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::pickle::Pickle;
use super::tar::each_file;
use super::{Fit, Format, Sink, SourceFile, Stack};

/// The archives of the public sets, of which a part is `train` or `test`.
#[derive(Debug)]
pub struct Cifar;

impl Format for Cifar {
    fn name(&self) -> &'static str {
        "cifar"
    }

    fn meaning(&self) -> &'static str {
        "CIFAR's archives"
    }

    fn natural_fit(&self) -> Fit {
        Fit::Crop
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        for file in &files {
            let mut batches = Batches::default();
            let path = file.path()?;
            each_file(path, &mut |name, entry| batches.take(name, entry).map(|_| ()))?;
            let count = batches.hand_on(file.part(), sink).with_context(|| file.name.clone())?;
            ensure!(count > 0, "{}: expected CIFAR's batches of images, found none", file.name);
        }
        Ok(())
    }
}

/// Rows and columns of an image, which has three channels.
const SIDE: usize = 32;
/// Bytes of an image.
const IMAGE: usize = 3 * SIDE * SIDE;
/// The most bytes of a batch: more than the largest, the 50,000 images of CIFAR-100.
const MAX_BATCH: u64 = 192 << 20;
/// CIFAR-10's classes, for archives that lack the file that names them.
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// An archive's folder: what its batches are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Layout {
    folder: &'static str,
    is_pickled: bool,
    /// Bytes before an image, of which the last is its label.
    labels: usize,
    /// The key of the labels in a pickle.
    key: &'static str,
    /// The file of the names of classes, and their key in a pickle.
    names: (&'static str, &'static str),
    train: &'static [&'static str],
    test: &'static str,
}

/// The four archives on the page of their makers, <https://www.cs.toronto.edu/~kriz/cifar.html>.
const LAYOUTS: [Layout; 4] = [
    Layout {
        folder: "cifar-10-batches-bin",
        is_pickled: false,
        labels: 1,
        key: "",
        names: ("batches.meta.txt", ""),
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: "test_batch.bin",
    },
    Layout {
        folder: "cifar-10-batches-py",
        is_pickled: true,
        labels: 1,
        key: "labels",
        names: ("batches.meta", "label_names"),
        train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
        test: "test_batch",
    },
    Layout {
        folder: "cifar-100-binary",
        is_pickled: false,
        labels: 2,
        key: "",
        names: ("fine_label_names.txt", ""),
        train: &["train.bin"],
        test: "test.bin",
    },
    Layout {
        folder: "cifar-100-python",
        is_pickled: true,
        labels: 2,
        key: "fine_labels",
        names: ("meta", "fine_label_names"),
        train: &["train"],
        test: "test",
    },
];

/// The batches of an archive, gathered while it is read: their order there is any.
#[derive(Debug, Default)]
pub(super) struct Batches(BTreeMap<(Layout, String), Vec<u8>>);

impl Batches {
    /// Takes the file called `name` if it is a batch, or the names of classes.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than any batch.
    pub(super) fn take(&mut self, name: &str, file: &mut dyn Read) -> Result<bool> {
        let mut parts = name.rsplit('/');
        let (Some(name), Some(folder)) = (parts.next(), parts.next()) else { return Ok(false) };
        let layout = LAYOUTS.into_iter().find(|layout| {
            let mut names = layout.train.iter().chain([&layout.test, &layout.names.0]);
            layout.folder == folder && names.any(|known| *known == name)
        });
        let Some(layout) = layout else { return Ok(false) };
        let mut bytes = Vec::new();
        file.take(MAX_BATCH + 1).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
        ensure!(bytes.len() as u64 <= MAX_BATCH, "{name}: expected at most {MAX_BATCH} bytes");
        self.0.insert((layout, name.to_owned()), bytes);
        Ok(true)
    }

    /// Hands on the images of `part` (`train` or `test`; both without one), in the order of the batches' numbers, and
    /// says how many there were.
    ///
    /// # Errors
    /// If a batch is damaged; the message names it. Those of `sink`.
    pub(super) fn hand_on(mut self, part: Option<&str>, sink: &mut Sink) -> Result<usize> {
        let mut count = 0;
        for layout in LAYOUTS {
            let names = self.classes(layout)?;
            let train = layout.train.iter().filter(|_| part != Some("test"));
            let test = [&layout.test].into_iter().filter(|_| part != Some("train"));
            for &name in train.chain(test) {
                let Some(bytes) = self.0.remove(&(layout, name.to_owned())) else { continue };
                let (stack, labels) = layout.parse(&bytes).with_context(|| name.to_owned())?;
                // A label without a name is called by its number.
                let label = |&label: &usize| names.get(label).cloned().unwrap_or(label.to_string());
                let nameless = labels.iter().filter(|label| **label >= names.len()).count();
                if nameless > 0 && !names.is_empty() {
                    sink.warn(&format!(
                        "{name}: {nameless} of {} labels are {} or more, and no names of classes",
                        labels.len(),
                        names.len()
                    ));
                }
                let labels: Vec<_> = labels.iter().map(label).collect();
                count += stack.count;
                sink.stack(stack, Some(&labels))?;
            }
        }
        Ok(count)
    }

    /// The names of the classes of a layout; none where they are not known.
    fn classes(&mut self, layout: Layout) -> Result<Vec<String>> {
        let (name, key) = layout.names;
        match self.0.remove(&(layout, name.to_owned())) {
            None if layout.labels == 1 => Ok(CLASSES.map(str::to_owned).to_vec()),
            None => Ok(Vec::new()),
            Some(bytes) if layout.is_pickled => {
                let names = Pickle::parse(&bytes).with_context(|| name.to_owned())?.texts(key);
                names.with_context(|| format!("{name}: expected a list of names `{key}`"))
            }
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                Ok(lines.map(str::to_owned).collect())
            }
        }
    }
}

impl Layout {
    /// The images of a batch, and their labels.
    fn parse(&self, bytes: &[u8]) -> Result<(Stack, Vec<usize>)> {
        if self.is_pickled {
            let pickle = Pickle::parse(bytes)?;
            let (shape, data) = pickle.array("data")?;
            let [count, IMAGE] = *shape else {
                bail!("`data`: expected [N, {IMAGE}], found {shape:?}");
            };
            let labels = pickle.numbers(self.key);
            let labels =
                labels.with_context(|| format!("expected a list of numbers `{}`", self.key))?;
            let labels = labels.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
            let labels = labels.with_context(|| format!("`{}`: one is negative", self.key))?;
            ensure!(
                labels.len() == count && count > 0,
                "expected as many labels as images, found {} of {count}",
                labels.len()
            );
            return Ok((images(data.as_chunks::<IMAGE>().0), labels));
        }
        let record = self.labels + IMAGE;
        ensure!(
            !bytes.is_empty() && bytes.len().is_multiple_of(record),
            "expected records of {record} bytes, found {} bytes",
            bytes.len()
        );
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for record in bytes.chunks_exact(record) {
            let (label, image) = record.split_at(self.labels);
            labels.extend(label.last().copied().map(usize::from));
            pixels.extend(image.first_chunk::<IMAGE>().copied());
        }
        Ok((images(&pixels), labels))
    }
}

/// Images whose channels lie one after the other, as a stack.
fn images(planar: &[[u8; IMAGE]]) -> Stack {
    let plane = SIDE * SIDE;
    let mut pixels = Vec::with_capacity(planar.len() * IMAGE);
    for image in planar {
        pixels.extend((0..plane).flat_map(|i| [image[i], image[plane + i], image[2 * plane + i]]));
    }
    Stack { count: planar.len(), height: SIDE, width: SIDE, channels: 3, pixels }
}

#[cfg(test)]
mod tests {
    use super::super::pickle::tests::python2;
    use super::*;

    /// `count` images whose red is `red`, whose green counts pixels, and whose blue is 9.
    fn planar(red: &[u8]) -> Vec<u8> {
        let plane = SIDE * SIDE;
        red.iter()
            .flat_map(|&red| {
                let green = (0..plane).map(|i| i as u8);
                std::iter::repeat_n(red, plane).chain(green).chain(std::iter::repeat_n(9, plane))
            })
            .collect()
    }

    #[test]
    fn binary_and_pickled_batches_give_the_same_images_and_labels() -> Result<()> {
        let data = planar(&[1, 2]);
        let [binary_10, pickled_10, binary_100, pickled_100] = LAYOUTS;
        let records = |labels: [&[u8]; 2]| -> Vec<u8> {
            let pairs = labels.into_iter().zip(data.chunks(IMAGE));
            pairs.flat_map(|(label, image)| [label, image].concat()).collect()
        };
        let expected = pickled_10.parse(&python2(IMAGE as u16, &data, "labels", &[3, 8]))?;
        assert_eq!((expected.0.count, &expected.1), (2, &vec![3, 8]));
        assert_eq!(expected.0.pixels[..6], [1, 0, 9, 1, 1, 9]);
        assert_eq!(expected.0.pixels[IMAGE..IMAGE + 3], [2, 0, 9]);
        let bytes = records([&[3], &[8]]);
        assert_eq!(binary_10.parse(&bytes)?, expected);
        // Of CIFAR-100 the second label is the fine one.
        let bytes = records([&[11, 3], &[12, 8]]);
        assert_eq!(binary_100.parse(&bytes)?, expected);
        let fine = python2(IMAGE as u16, &data, "fine_labels", &[3, 8]);
        assert_eq!(pickled_100.parse(&fine)?, expected);
        for (layout, bytes, told) in [
            (binary_10, &bytes[..], "expected records of 3073 bytes, found 6148"),
            (binary_10, &[], "found 0 bytes"),
            (pickled_10, &fine, "expected a list of numbers `labels`"),
            (
                pickled_10,
                &python2(4, &[0; 8], "labels", &[1, 2]),
                "expected [N, 3072], found [2, 4]",
            ),
            (pickled_10, &python2(3072, &data, "labels", &[1]), "found 1 of 2"),
        ] {
            let error = layout.parse(bytes).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
        Ok(())
    }
}
