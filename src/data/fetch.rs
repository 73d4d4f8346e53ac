//! Public data sets: where they are, fetching and verifying them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use md5::{Digest, Md5};
use sha2::Sha256;

use super::formats::{
    Format, MAX_EXPANDED, SourceFile, cifar, emnist, idx, mat5, read_maybe_gzipped,
};
use super::load::Event;
use crate::error::Fixable;
use crate::files::remove_if_there;

/// A data set that can be downloaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Collection {
    /// What the user calls it.
    pub name: &'static str,
    /// What it holds, and which parts of it there are.
    pub meaning: &'static str,
    /// Who made it, and what may be done with it.
    pub origin: &'static str,
    /// The folder of its files, below that of all downloads. Several collections may share files.
    folder: &'static str,
    /// What its files are read as. In IDX, those of labels follow their images.
    pub format: &'static dyn Format,
    /// Where its files are, tried in order.
    mirrors: &'static [&'static str],
    files: &'static [Remote],
}

/// One of its files.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    name: &'static str,
    part: Part,
    /// As published, in hexadecimal.
    md5: &'static str,
    /// SHA-256 of the uncompressed bytes, where it is known.
    sha256: Option<&'static str>,
    /// What is meant of the file, where several parts are in one.
    of_file: Option<&'static str>,
    /// Other files that are as good, if they are there, with their MD5 where it is known.
    instead: &'static [(&'static str, Option<&'static str>)],
}

/// A part of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Training and test images: what the collection's name without a part stands for.
    All,
    /// Training images.
    Train,
    /// Test images.
    Test,
    /// SVHN's many easier ones.
    Extra,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Train => "train",
            Self::Test => "test",
            Self::Extra => "extra",
        }
    }
}

const fn remote(
    part: Part,
    name: &'static str,
    md5: &'static str,
    sha256: Option<&'static str>,
) -> Remote {
    Remote { name, part, md5, sha256, of_file: None, instead: &[] }
}

/// The two parts of a CIFAR archive; the archive for Python is as good as the binary one.
const fn cifar(
    binary: (&'static str, &'static str),
    instead: &'static [(&'static str, Option<&'static str>)],
) -> [Remote; 2] {
    let (name, md5) = binary;
    [
        Remote { of_file: Some("train"), instead, ..remote(Part::Train, name, md5, None) },
        Remote { of_file: Some("test"), instead, ..remote(Part::Test, name, md5, None) },
    ]
}

/// One of EMNIST's sets: its parts in the archive of all of them, or its own files.
macro_rules! emnist {
    ($set:literal, $meaning:literal) => {
        Collection {
            name: concat!("emnist-", $set),
            meaning: concat!($meaning, "; emnist-", $set, ":train, emnist-", $set, ":test"),
            origin: "Cohen and others (Western Sydney), from NIST's Special Database 19",
            folder: "emnist",
            format: &emnist::Emnist,
            mirrors: &["https://biometrics.nist.gov/cs_links/EMNIST/"],
            files: &[emnist!(@part $set, Train, "train"), emnist!(@part $set, Test, "test")],
        }
    };
    (@part $set:literal, $part:ident, $name:literal) => {
        Remote {
            of_file: Some(concat!($set, "-", $name)),
            instead: &[
                ("emnist.zip", Some(EMNIST_MD5)),
                (concat!("emnist-", $set, "-", $name, "-images-idx3-ubyte.gz"), None),
            ],
            ..remote(Part::$part, "gzip.zip", EMNIST_MD5, None)
        }
    };
}

/// Of the archive of all sets. NIST publishes none; torchvision (torchvision/datasets/mnist.py) checks this one.
const EMNIST_MD5: &str = "58c8d27c78d21e728a6bc7b3cc06412e";

/// Every collection that can be downloaded.
// The MD5 sums are those that the sets' makers (https://www.cs.toronto.edu/~kriz/cifar.html) or torchvision
// (torchvision/datasets/mnist.py, svhn.py) publish; MNIST's SHA-256 sums are of the genuine files, uncompressed.
pub static COLLECTIONS: [Collection; 12] = [
    Collection {
        name: "mnist",
        meaning: "70,000 handwritten digits; mnist:train, mnist:test",
        origin: "LeCun, Cortes, Burges; CC BY-SA 3.0",
        folder: "mnist",
        format: &idx::Idx,
        mirrors: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        files: &[
            remote(
                Part::Train,
                "train-images-idx3-ubyte.gz",
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                Some("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ),
            remote(
                Part::Train,
                "train-labels-idx1-ubyte.gz",
                "d53e105ee54ea40749a09fcbcd1e9432",
                Some("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            ),
            remote(
                Part::Test,
                "t10k-images-idx3-ubyte.gz",
                "9fb629c4189551a2d022fa330f9573f3",
                Some("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            ),
            remote(
                Part::Test,
                "t10k-labels-idx1-ubyte.gz",
                "ec29112dd5afa0611ce80d1b7f02629c",
                Some("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
            ),
        ],
    },
    Collection {
        name: "fashion-mnist",
        meaning: "70,000 pieces of clothing; fashion-mnist:train, fashion-mnist:test",
        origin: "Xiao, Rasul, Vollgraf (Zalando); MIT",
        folder: "fashion-mnist",
        format: &idx::Idx,
        mirrors: &[
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ],
        files: &[
            remote(
                Part::Train,
                "train-images-idx3-ubyte.gz",
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                None,
            ),
            remote(
                Part::Train,
                "train-labels-idx1-ubyte.gz",
                "25c81989df183df01b3e8a0aad5dffbe",
                None,
            ),
            remote(
                Part::Test,
                "t10k-images-idx3-ubyte.gz",
                "bef4ecab320f06d8554ea6380940ec79",
                None,
            ),
            remote(
                Part::Test,
                "t10k-labels-idx1-ubyte.gz",
                "bb300cfdad3c16e7a12a480ee83cd310",
                None,
            ),
        ],
    },
    Collection {
        name: "kmnist",
        meaning: "70,000 cursive Japanese characters; kmnist:train, kmnist:test",
        origin: "Clanuwat and others (CODH); CC BY-SA 4.0",
        folder: "kmnist",
        format: &idx::Idx,
        mirrors: &[
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ],
        files: &[
            remote(
                Part::Train,
                "train-images-idx3-ubyte.gz",
                "bdb82020997e1d708af4cf47b453dcf7",
                None,
            ),
            remote(
                Part::Train,
                "train-labels-idx1-ubyte.gz",
                "e144d726b3acfaa3e44228e80efcd344",
                None,
            ),
            remote(
                Part::Test,
                "t10k-images-idx3-ubyte.gz",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                None,
            ),
            remote(
                Part::Test,
                "t10k-labels-idx1-ubyte.gz",
                "7320c461ea6c1c855c0b718fb2a4b134",
                None,
            ),
        ],
    },
    Collection {
        name: "svhn",
        meaning: "99,289 house numbers, in colour; svhn:train, svhn:test, svhn:extra (531,131)",
        origin: "Netzer and others (Stanford); for non-commercial use only",
        folder: "svhn",
        format: &mat5::Mat,
        mirrors: &[
            "http://ufldl.stanford.edu/housenumbers/",
            "https://ufldl.stanford.edu/housenumbers/",
        ],
        files: &[
            remote(Part::Train, "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", None),
            remote(Part::Test, "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", None),
            remote(Part::Extra, "extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7", None),
        ],
    },
    Collection {
        name: "cifar10",
        meaning: "60,000 photos of 10 classes, in colour; cifar10:train, cifar10:test",
        origin: "Krizhevsky (Toronto), from the Tiny Images data set; no licence is stated",
        folder: "cifar10",
        format: &cifar::Cifar,
        mirrors: CIFAR_MIRRORS,
        files: &cifar(
            ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
            &[("cifar-10-python.tar.gz", Some("c58f30108f718f92721af3b95e74349a"))],
        ),
    },
    Collection {
        name: "cifar100",
        meaning: "60,000 photos of 100 classes, in colour; cifar100:train, cifar100:test",
        origin: "Krizhevsky (Toronto), from the Tiny Images data set; no licence is stated",
        folder: "cifar100",
        format: &cifar::Cifar,
        mirrors: CIFAR_MIRRORS,
        files: &cifar(
            ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
            &[("cifar-100-python.tar.gz", Some("eb9058c3a382ffc7106e4002c42a8d85"))],
        ),
    },
    emnist!("balanced", "131,600 handwritten characters of 47 classes"),
    emnist!("byclass", "814,255 handwritten characters of 62 classes"),
    emnist!("bymerge", "814,255 handwritten characters of 47 classes"),
    emnist!("digits", "280,000 handwritten digits"),
    emnist!("letters", "145,600 handwritten letters of 26 classes, capital and small"),
    emnist!("mnist", "70,000 handwritten digits, made like MNIST's"),
];

/// The page of CIFAR's makers, under its old name and its new one.
const CIFAR_MIRRORS: &[&str] =
    &["https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"];

/// How long a download waits, and how often it tries again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How long to wait for an answer, and for each stretch of the file, before asking for the rest.
    pub timeout: Duration,
    /// The pause before the next try; it is doubled each time.
    pub pause: Duration,
    /// How many tries in a row may bring no byte before a mirror is given up.
    pub tries: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(20), pause: Duration::from_secs(1), tries: 3 }
    }
}

impl Collection {
    /// The collection of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        COLLECTIONS.iter().find(|collection| collection.name == name)
    }

    /// The part that `name` means; all of it where there is no name.
    ///
    /// # Errors
    /// If there is no such part; the message lists those there are.
    pub fn part(&self, name: Option<&str>) -> Result<Part, String> {
        let Some(name) = name else { return Ok(Part::All) };
        let mut parts: Vec<_> = self.files.iter().map(|file| file.part).collect();
        parts.dedup();
        if let Some(part) = parts.iter().find(|part| part.name() == name) {
            return Ok(*part);
        }
        let names: Vec<_> = parts.into_iter().map(Part::name).collect();
        Err(format!("`{}` has no part `{name}`; expected {}", self.name, names.join(" or ")))
    }

    fn files(&self, part: Part) -> impl Iterator<Item = &'static Remote> + use<> {
        let files: &'static [Remote] = self.files;
        files.iter().filter(move |file| match part {
            Part::All => file.part != Part::Extra,
            part => file.part == part,
        })
    }

    /// The files of `part` in `home`, in order; `None` if one is missing. There, or in a folder of the
    /// collection's name, packed as it is published or unpacked.
    pub fn local(&self, part: Part, home: &Path) -> Option<Vec<PathBuf>> {
        self.files(part).map(|file| self.find(file, home)).collect()
    }

    /// Those files as a format reads them: the parts that are meant, and what lies beside and belongs to them.
    ///
    /// # Errors
    /// If one cannot be seen.
    pub(super) fn sources(&self, part: Part, paths: &[PathBuf]) -> Result<Vec<SourceFile>> {
        let mut sources = Vec::new();
        for (file, path) in self.files(part).zip(paths) {
            let source = SourceFile::at(path)?;
            sources.push(match file.of_file {
                Some(part) => source.with_part(part),
                None => source,
            });
            for beside in self.format.beside(path) {
                sources.push(SourceFile::at(&beside)?);
            }
        }
        Ok(sources)
    }

    fn find(&self, file: &Remote, home: &Path) -> Option<PathBuf> {
        let names = [file.name].into_iter().chain(file.instead.iter().map(|(name, _)| *name));
        let names: Vec<_> = names.flat_map(|name| [name, name.trim_end_matches(".gz")]).collect();
        // Of two sets whose files have the same names, the folder tells which they are of.
        let folders =
            [Some(home.join(self.folder)), self.is_the_first_of_its_names().then(|| home.into())];
        let mut paths = folders
            .iter()
            .flatten()
            .flat_map(|folder: &PathBuf| names.iter().map(|name| folder.join(name)));
        paths.find(|path| path.is_file())
    }

    fn is_the_first_of_its_names(&self) -> bool {
        let has_names = |other: &&Self| other.files[0].name == self.files[0].name;
        COLLECTIONS.iter().find(has_names).is_some_and(|first| first.folder == self.folder)
    }

    /// Compares the files of `part` in `home` with what was published. Gives those for which that is not possible,
    /// because they were unpacked and only the checksum of the packed file is known.
    ///
    /// # Errors
    /// If one is damaged or another file, or cannot be read; the message says what to do.
    pub fn verify(&self, part: Part, home: &Path) -> Result<Vec<PathBuf>> {
        let mut unknown = Vec::new();
        let mut done = Vec::new();
        for file in self.files(part) {
            let Some(path) = self.find(file, home).filter(|path| !done.contains(path)) else {
                continue;
            };
            let name = path.file_name().unwrap_or_default();
            let other =
                file.instead.iter().find(|(other, _)| name == *other).and_then(|(_, md5)| *md5);
            let md5 = if name == file.name { Some(file.md5) } else { other };
            let sha256 = file.sha256.filter(|_| other.is_none());
            // One that was packed again holds the same bytes.
            let is_same = sha256.is_some() && compare(&path, None, sha256).is_ok();
            match if is_same { Ok(()) } else { compare(&path, md5, sha256) } {
                Ok(()) if md5.is_none() && sha256.is_none() => unknown.push(path.clone()),
                Ok(()) => {}
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Mirror(error) | Failure::Content(error)) => {
                    let advice =
                        "it is damaged or another file; remove it, and it will be fetched again";
                    bail!("{}: {error:#}; {advice}", path.display());
                }
            }
            done.push(path);
        }
        Ok(unknown)
    }

    /// The files of `part`, in order. Those that are not in `home` yet are downloaded and verified, by one process at a
    /// time: from `mirror` instead of the known mirrors, where it is given. It may be a `file:` URL. `tell` is told of a
    /// file's name, how many of its bytes there are and how many there will be, and of mirrors that do not answer.
    ///
    /// # Errors
    /// If no mirror has a file as it was published; the message says what each had. A part of a file
    /// that has been downloaded is kept, and the next call resumes from there.
    pub fn fetch(
        &self,
        part: Part,
        home: &Path,
        mirror: Option<&str>,
        retry: RetryPolicy,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Vec<PathBuf>> {
        if let Some(files) = self.local(part, home) {
            return Ok(files);
        }
        let folder = home.join(self.folder);
        fs::create_dir_all(&folder).with_context(|| {
            format!("{}: cannot be made; set DCGAN_DATA to another folder", folder.display())
        })?;
        let lock_path = folder.join(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("{}: cannot be written", lock_path.display()))?;
        match lock.lock() {
            Err(e) if e.kind() != ErrorKind::Unsupported => {
                return Err(e)
                    .with_context(|| format!("{}: cannot be locked", lock_path.display()));
            }
            _ => {}
        }
        let mirrors: Vec<String> = match mirror {
            Some(mirror) => vec![format!("{}/", mirror.trim_end_matches('/'))],
            None => self.mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
        };
        let mut paths = Vec::new();
        for file in self.files(part) {
            // Another process may have fetched it while this one waited.
            let path = match self.find(file, home) {
                Some(path) => path,
                None => fetch_one(self.name, file, &folder, &mirrors, retry, tell)?,
            };
            paths.push(path);
        }
        Ok(paths)
    }
}

fn fetch_one(
    collection: &str,
    file: &Remote,
    folder: &Path,
    mirrors: &[String],
    retry: RetryPolicy,
    tell: &mut dyn FnMut(Event),
) -> Result<PathBuf> {
    let (path, partial) = (folder.join(file.name), folder.join(format!("{}.part", file.name)));
    let mut failures = Vec::new();
    for mirror in mirrors {
        let url = format!("{mirror}{}", file.name);
        // The bytes that another mirror has left may be of another file: then it is downloaded again from its beginning.
        for from_start in [false, true] {
            if from_start {
                remove_if_there(&partial)?;
            }
            let had_some = fs::metadata(&partial).is_ok_and(|file| file.len() > 0);
            let done = download(&url, file.name, &partial, retry, tell);
            let done = done.and_then(|()| verify(file, &partial));
            match done {
                Ok(()) => {
                    fs::rename(&partial, &path)
                        .with_context(|| format!("{}: cannot be written", path.display()))?;
                    return Ok(path);
                }
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Mirror(error)) => {
                    tell(Event::Warning(&format!("{url}: given up: {error:#}")));
                    failures.push(format!("{url}: {error:#}"));
                    break;
                }
                // Bytes of another file cannot be resumed from.
                Err(Failure::Content(error)) => {
                    remove_if_there(&partial)?;
                    if !had_some {
                        failures.push(format!("{url}: {error:#}"));
                        break;
                    }
                }
            }
        }
    }
    // An empty file is nothing to resume from.
    if fs::metadata(&partial).is_ok_and(|file| file.len() == 0) {
        remove_if_there(&partial)?;
    }
    bail!(Fixable::NotFetched {
        collection: collection.to_owned(),
        problem: format!(
            "{} cannot be fetched; put it into {} by hand, or name another mirror\n  {}",
            file.name,
            folder.display(),
            failures.join("\n  ")
        ),
    })
}

/// Why a file could not be fetched.
pub(super) enum Failure {
    /// Something is wrong on this machine, so that no other mirror would help.
    Here(anyhow::Error),
    /// The mirror does not answer, or says no.
    Mirror(anyhow::Error),
    /// The bytes that came are not those of the file.
    Content(anyhow::Error),
}

impl Failure {
    /// What an error is that writing the file at `partial` gave.
    pub(super) fn of_writing(partial: &Path) -> impl Fn(std::io::Error) -> Self + Copy {
        move |e| Self::Here(anyhow!(e).context(format!("{}: cannot be written", partial.display())))
    }
}

/// Whether `partial` is the file.
fn verify(file: &Remote, partial: &Path) -> Result<(), Failure> {
    compare(partial, Some(file.md5), file.sha256)
}

/// Whether the file at `path` has this MD5, and its uncompressed bytes this SHA-256, where they are known.
fn compare(path: &Path, md5: Option<&str>, sha256: Option<&str>) -> Result<(), Failure> {
    let here = |e: std::io::Error| {
        Failure::Here(anyhow!(e).context(format!("{}: cannot be read", path.display())))
    };
    if let Some(expected) = md5 {
        let mut source = File::open(path).map_err(here)?;
        let (mut digest, mut buffer, mut length) = (Md5::new(), vec![0; 1 << 20], 0);
        let mut looks_like = "";
        loop {
            let read = source.read(&mut buffer).map_err(here)?;
            let part = &buffer[..read];
            if length == 0 && part.trim_ascii_start().starts_with(b"<") {
                looks_like = "; it looks like a web page";
            }
            digest.update(part);
            length += read;
            if read == 0 {
                break;
            }
        }
        let found = hex::encode(digest.finalize());
        if found != expected {
            let error =
                anyhow!("expected MD5 {expected}, found {found} of {length} bytes{looks_like}");
            return Err(Failure::Content(error));
        }
    }
    if let Some(expected) = sha256 {
        let bytes = read_maybe_gzipped(path, MAX_EXPANDED).map_err(Failure::Content)?;
        let found = hex::encode(Sha256::digest(&bytes));
        if found != expected {
            let message =
                format!("expected SHA-256 {expected} of the uncompressed bytes, found {found}");
            return Err(Failure::Content(anyhow!(message)));
        }
    }
    Ok(())
}

/// Appends to `partial` what it lacks of `url`.
fn download(
    url: &str,
    name: &str,
    partial: &Path,
    retry: RetryPolicy,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Failure> {
    let here = Failure::of_writing(partial);
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(false).read(true).write(true).open(partial).map_err(here)?;
    if let Some(source) = url.strip_prefix("file:") {
        let source = source.strip_prefix("//").unwrap_or(source);
        let mut source = File::open(source).map_err(|e| Failure::Mirror(anyhow!(e)))?;
        file.set_len(0).map_err(here)?;
        std::io::copy(&mut source, &mut file).map_err(here)?;
        return file.sync_all().map_err(here);
    }
    super::http::append(url, name, &mut file, partial, retry, tell)
}

/// A part of a collection and what is there of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its name, as a data set's.
    pub name: String,
    /// Bytes on the disk; `None` if it is not there.
    pub bytes: Option<u64>,
}

/// Every part of every collection, with what is there in `home`.
///
/// # Errors
/// If a file cannot be looked at.
pub fn status(home: &Path) -> Result<Vec<Status>> {
    let mut all = Vec::new();
    for collection in &COLLECTIONS {
        for part in [Part::Train, Part::Test, Part::Extra] {
            if collection.files(part).next().is_none() {
                continue;
            }
            let size = |path: &PathBuf| Ok(fs::metadata(path)?.len());
            let bytes = collection
                .local(part, home)
                .map(|files| files.iter().map(size).sum::<Result<u64>>())
                .transpose()?;
            all.push(Status { name: format!("{}:{}", collection.name, part.name()), bytes });
        }
    }
    Ok(all)
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::thread;

    use super::*;

    /// A server that answers requests as the test says, one after the other, and remembers them.
    struct Server {
        url: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    type Answer = Box<dyn Fn(&str, &mut TcpStream) + Send>;

    impl Server {
        fn new(answers: Vec<Answer>) -> Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let url = format!("http://{}/", listener.local_addr()?);
            let requests = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&requests);
            thread::spawn(move || {
                for answer in answers {
                    let Ok((mut stream, _)) = listener.accept() else { return };
                    let mut request = String::new();
                    let Ok(clone) = stream.try_clone() else { return };
                    for line in BufReader::new(clone).lines().map_while(Result::ok) {
                        if line.is_empty() {
                            break;
                        }
                        request += &line.to_lowercase();
                        request.push('\n');
                    }
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                    // The next one must not wait for an answer that stalls.
                    thread::spawn(move || answer(&request, &mut stream));
                }
            });
            Ok(Self { url, requests })
        }

        fn requests(&self) -> Vec<String> {
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    fn content() -> Vec<u8> {
        (0..200_000_u64).map(|i| ((i * i) >> 7) as u8).collect()
    }

    fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
        let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(body);
    }

    /// The file, or what is asked of it.
    fn good() -> Answer {
        Box::new(|request, stream| {
            let all = content();
            let begin = request.lines().find_map(|line| {
                line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok()
            });
            match begin {
                Some(begin) if begin >= all.len() => {
                    send(stream, &format!("416 No\r\nContent-Range: bytes */{}", all.len()), b"");
                }
                Some(begin) => {
                    let range =
                        format!("Content-Range: bytes {begin}-{}/{}", all.len() - 1, all.len());
                    let length = all.len() - begin;
                    send(
                        stream,
                        &format!("206 Part\r\n{range}\r\nContent-Length: {length}"),
                        &all[begin..],
                    );
                }
                None => send(stream, &format!("200 OK\r\nContent-Length: {}", all.len()), &all),
            }
        })
    }

    fn status(status: &'static str, body: &'static str) -> Answer {
        Box::new(move |_, stream| {
            send(stream, &format!("{status}\r\nContent-Length: {}", body.len()), body.as_bytes());
        })
    }

    /// Promises everything, sends the first `length` bytes and closes.
    fn broken_off(length: usize) -> Answer {
        Box::new(move |_, stream| {
            let all = content();
            send(stream, &format!("200 OK\r\nContent-Length: {}", all.len()), &all[..length]);
        })
    }

    fn file() -> Remote {
        let md5 = hex::encode(Md5::digest(content()));
        remote(Part::Train, "some.bin", md5.leak(), None)
    }

    const HASTE: RetryPolicy = RetryPolicy {
        timeout: Duration::from_millis(1500),
        pause: Duration::from_millis(5),
        tries: 3,
    };

    /// Fetches from the servers that give `answers`; the content, or the error.
    fn fetched(folder: &Path, servers: &[&Server]) -> Result<Vec<u8>> {
        let mirrors: Vec<_> = servers.iter().map(|server| server.url.clone()).collect();
        let path = fetch_one("some", &file(), folder, &mirrors, HASTE, &mut |_| {})?;
        assert_eq!(path, folder.join("some.bin"));
        assert_eq!(fs::read_dir(folder)?.count(), 1, "nothing else is left");
        Ok(fs::read(path)?)
    }

    fn assert_fetched(answers: Vec<Answer>) -> Result<Server> {
        let folder = tempfile::tempdir()?;
        let server = Server::new(answers)?;
        assert!(fetched(folder.path(), &[&server])? == content());
        Ok(server)
    }

    #[test]
    fn a_file_is_fetched_and_interrupted_downloads_resume() -> Result<()> {
        assert_fetched(vec![good()])?;
        let server = assert_fetched(vec![broken_off(70_000), good()])?;
        assert!(server.requests()[1].contains("range: bytes=70000-"), "{:?}", server.requests());
        // A server that knows no ranges begins anew.
        let whole: Answer = Box::new(|_, stream| {
            let all = content();
            send(stream, &format!("200 OK\r\nContent-Length: {}", all.len()), &all);
        });
        assert_fetched(vec![broken_off(70_000), whole])?;
        Ok(())
    }

    #[test]
    fn downloads_that_an_earlier_call_has_left_resume() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let partial = folder.path().join("some.bin.part");
        fs::write(&partial, &content()[..1234])?;
        let server = Server::new(vec![good()])?;
        assert!(fetched(folder.path(), &[&server])? == content());
        assert!(server.requests()[0].contains("range: bytes=1234-"));
        // All of it, and bytes of something else.
        for left in [content(), vec![7; 1000], vec![7; 300_000]] {
            let folder = tempfile::tempdir()?;
            fs::write(folder.path().join("some.bin.part"), left)?;
            let server = Server::new(vec![good(), good()])?;
            assert!(fetched(folder.path(), &[&server])? == content());
        }
        Ok(())
    }

    #[test]
    fn servers_that_stall_or_are_busy_are_asked_again() -> Result<()> {
        let stall: Answer = Box::new(|_, stream| {
            let all = content();
            send(stream, &format!("200 OK\r\nContent-Length: {}", all.len()), &all[..50_000]);
            thread::sleep(Duration::from_secs(5));
        });
        let server = assert_fetched(vec![stall, good()])?;
        assert!(server.requests()[1].contains("range: bytes=50000-"), "{:?}", server.requests());
        assert_fetched(vec![status("503 Busy", "wait"), status("429 Slow", ""), good()])?;
        let silent: Answer = Box::new(|_, _| thread::sleep(Duration::from_secs(4)));
        assert_fetched(vec![silent, good()])?;
        Ok(())
    }

    #[test]
    fn redirections_are_followed() -> Result<()> {
        let target = Server::new(vec![good()])?;
        let location =
            format!("302 There\r\nContent-Length: 0\r\nLocation: {}else.bin", target.url);
        assert_fetched(vec![Box::new(move |_, stream| send(stream, &location, b""))])?;
        assert!(target.requests()[0].starts_with("get /else.bin"));
        Ok(())
    }

    #[test]
    fn a_mirror_that_has_something_else_is_left_for_the_next() -> Result<()> {
        let wrong: fn() -> Answer = || status("200 OK", "something else");
        let page: fn() -> Answer = || status("200 OK", "  <!doctype html><title>Sorry</title>");
        let no: fn() -> Answer = || status("403 No", "no");
        let gone: fn() -> Answer = || status("404 Gone", "");
        for bad in [wrong, page, no, gone] {
            let folder = tempfile::tempdir()?;
            let (first, second) = (Server::new(vec![bad(), bad()])?, Server::new(vec![good()])?);
            assert!(fetched(folder.path(), &[&first, &second])? == content());
        }
        let folder = tempfile::tempdir()?;
        let servers = [wrong, page, no].map(|bad| Server::new(vec![bad(), bad()]));
        let servers: Vec<_> = servers.into_iter().collect::<Result<_>>()?;
        let error =
            fetched(folder.path(), &servers.iter().collect::<Vec<_>>()).unwrap_err().to_string();
        for part in [
            "some.bin cannot be fetched",
            "by hand",
            "of 14 bytes",
            "looks like a web page",
            "status 403",
        ] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        assert!(!folder.path().join("some.bin").exists());
        Ok(())
    }

    #[test]
    fn a_mirror_that_is_not_there_is_an_error_after_a_few_tries() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let url = format!("http://{}/", TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        let error =
            fetch_one("some", &file(), folder.path(), &[url], HASTE, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("3 tries"), "{error}");
        Ok(())
    }

    #[test]
    fn a_mirror_that_accepts_and_stays_silent_is_given_up_and_that_is_told() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let silent = || -> Answer { Box::new(|_, _| thread::sleep(Duration::from_secs(4))) };
        let silent = Server::new(vec![silent(), silent()])?;
        let good = Server::new(vec![good()])?;
        let retry = RetryPolicy { timeout: Duration::from_millis(300), tries: 2, ..HASTE };
        let mut told = Vec::new();
        let mirrors = [silent.url.clone(), good.url.clone()];
        fetch_one("some", &file(), folder.path(), &mirrors, retry, &mut |event| {
            if let Event::Warning(text) = event {
                told.push(text.to_owned());
            }
        })?;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|text| text.contains(&silent.url)), "{told:?}");
        assert!(
            told[0].contains("; try 2 of 2") && told[1].contains("given up: 2 tries"),
            "{told:?}"
        );
        Ok(())
    }

    #[test]
    fn what_is_there_is_compared_with_what_was_published() -> Result<()> {
        let home = tempfile::tempdir()?;
        let mnist = Collection::named("mnist").context("mnist")?;
        fs::create_dir(home.path().join("mnist"))?;
        let path = home.path().join("mnist/t10k-labels-idx1-ubyte.gz");
        fs::write(&path, include_bytes!("../../assets/t10k-labels-idx1-ubyte.gz"))?;
        let is_genuine = mnist.verify(Part::Test, home.path());
        fs::write(&path, "<html>Sorry")?;
        let error = mnist.verify(Part::Test, home.path()).unwrap_err().to_string();
        for part in [
            "labels-idx1-ubyte.gz: expected MD5 ec29112dd5afa0611ce80d1b7f02629c",
            "a web page",
            "remove it",
        ] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        // Unpacked, MNIST's have a SHA-256; those of others are not known.
        fs::remove_file(&path)?;
        let unpacked = home.path().join("mnist/t10k-labels-idx1-ubyte");
        fs::write(&unpacked, "no labels")?;
        let error = mnist.verify(Part::Test, home.path()).unwrap_err().to_string();
        assert!(error.contains("expected SHA-256 ff7bcfd4"), "{error}");
        let kmnist = Collection::named("kmnist").context("kmnist")?;
        fs::create_dir(home.path().join("kmnist"))?;
        let unpacked = home.path().join("kmnist/t10k-labels-idx1-ubyte");
        fs::write(&unpacked, "nobody knows")?;
        assert_eq!(kmnist.verify(Part::Test, home.path())?, [unpacked]);
        is_genuine.map(drop)
    }

    #[test]
    fn a_folder_may_be_a_mirror() -> Result<()> {
        let (folder, mirror) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fs::write(mirror.path().join("some.bin"), content())?;
        for scheme in ["file:", "file://"] {
            let url = format!("{scheme}{}/", mirror.path().display());
            let path = fetch_one("some", &file(), folder.path(), &[url], HASTE, &mut |_| {})?;
            assert!(fs::read(&path)? == content());
            fs::remove_file(path)?;
        }
        Ok(())
    }

    #[test]
    fn files_that_are_there_are_found_packed_or_not_and_fetch_asks_nobody() -> Result<()> {
        let home = tempfile::tempdir()?;
        let mnist = Collection::named("mnist").context("mnist")?;
        let fashion = Collection::named("fashion-mnist").context("fashion-mnist")?;
        assert_eq!(mnist.local(Part::Test, home.path()), None);
        fs::write(home.path().join("t10k-images-idx3-ubyte"), "")?;
        fs::create_dir(home.path().join("mnist"))?;
        fs::write(home.path().join("mnist/t10k-labels-idx1-ubyte.gz"), "")?;
        let found = mnist.local(Part::Test, home.path()).context("not found")?;
        assert_eq!(found.len(), 2);
        // Files of those names, in no folder of its own, are MNIST's.
        assert_eq!(fashion.local(Part::Test, home.path()), None);
        let nobody = Some("http://127.0.0.1:9/");
        let fetched = mnist.fetch(Part::Test, home.path(), nobody, HASTE, &mut |_| {})?;
        assert_eq!(fetched, found);
        Ok(())
    }

    #[test]
    fn two_that_fetch_at_once_wait_for_each_other() -> Result<()> {
        let home = tempfile::tempdir()?;
        let mirror = tempfile::tempdir()?;
        // Nobody has the genuine files here: both fail, one after the other, and neither hangs.
        fs::write(mirror.path().join("t10k-images-idx3-ubyte.gz"), "not the genuine one")?;
        let url = format!("file:{}", mirror.path().display());
        let mnist = Collection::named("mnist").context("mnist")?;
        thread::scope(|scope| {
            let run = || mnist.fetch(Part::Test, home.path(), Some(&url), HASTE, &mut |_| {});
            let both = [scope.spawn(run), scope.spawn(run)];
            for one in both {
                let error = one.join().unwrap().unwrap_err().to_string();
                assert!(error.contains("expected MD5 9fb629c4189551a2d022fa330f9573f3"), "{error}");
            }
        });
        Ok(())
    }
}
