//! Reads and writes safetensors files of `tch` tensors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::write_streamed;

/// The content of a safetensors file, sorted by name.
#[derive(Debug, Default)]
pub struct TensorFile {
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
    /// The file's tensors, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

/// The most bytes that a file's header may take. That is thousands of times what any file of this program needs, and
/// keeps a damaged file from asking for all memory.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// How files begin that torch.save has written: a zip archive of pickles; before PyTorch 1.6, a pickle of a
/// number of ten bytes. As lengths of headers both are far above the largest that is read.
const PICKLED: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02\x8a\x0a"];
/// The key of the checksum in a sealed file's metadata.
const CHECKSUM_KEY: &str = "sha256";

impl TensorFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a safetensors file, is truncated, or holds a tensor of a kind
    /// other than float32, float64 or int64; the message names the file and the tensor.
    pub fn read(path: &Path) -> Result<Self> {
        // This checks the length of the file against its header before all of it is read.
        Self::read_metadata(path)?;
        let bytes =
            fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        Self::parse(path, &bytes)
    }

    /// Reads a file's content from `bytes`. Messages call the file `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = path.display();
        let content = SafeTensors::deserialize(bytes).with_context(|| not_whole(path))?;
        let (_, header) = SafeTensors::read_metadata(bytes).with_context(|| not_whole(path))?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in content.iter() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                Dtype::I64 => Kind::Int64,
                other => bail!("{file}: tensor {name}: expected F32, F64 or I64, found {other:?}"),
            };
            let shape =
                view.shape().iter().map(|&n| i64::try_from(n)).collect::<Result<Vec<_>, _>>();
            let tensor = shape
                .map_err(anyhow::Error::from)
                .and_then(|shape| Ok(Tensor::f_from_data_size(view.data(), &shape, kind)?))
                .with_context(|| format!("{file}: tensor {name}"))?;
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Self { metadata, tensors })
    }

    /// Reads only the metadata of the file at `path`, and checks that the file is as long as its header says.
    ///
    /// # Errors
    /// If the file cannot be read, is not a safetensors file, or is longer or shorter than its header says.
    pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
        let cannot = || format!("{}: cannot be read", path.display());
        let mut file = File::open(path).with_context(cannot)?;
        let length = file.metadata().with_context(cannot)?.len();
        let mut header_length = [0; 8];
        file.read_exact(&mut header_length).with_context(|| not_whole(path))?;
        ensure!(
            !PICKLED.iter().any(|begin| header_length.starts_with(begin)),
            "{}: is a file of PyTorch, weights of torch.save or a program of TorchScript; neither is read, because a \
             pickle could run programs and a program holds no checkpoint; expected safetensors: for weights, in Python `safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT, \
             metadata=METADATA)` converts it, with the metadata of weights that were exported from here",
            path.display()
        );
        let header_length = u64::from_le_bytes(header_length);
        ensure!(
            header_length <= MAX_HEADER_BYTES,
            "{}: not a safetensors file: read as one, its first 8 bytes promise a header of {header_length} bytes",
            path.display()
        );
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).with_context(|| not_whole(path))?;
        let header: safetensors::tensor::Metadata =
            serde_json::from_slice(&header).with_context(|| not_whole(path))?;
        let promised = header_length.saturating_add(8).saturating_add(header.data_len() as u64);
        ensure!(
            length == promised,
            "{}: expected {promised} bytes, found {length}",
            not_whole(path)
        );
        Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
    }

    /// Writes the file at `path`, whole or not at all, and replaces one that is there. The same content always gives
    /// the same bytes. The `safetensors` crate's own writer does not promise that, because it writes metadata in
    /// another order each time.
    ///
    /// # Errors
    /// If a tensor is neither float32 nor float64, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.write_with(&self.metadata, path)
    }

    /// Like [`Self::write`], but adds a checksum of everything to the metadata, which [`Self::read_sealed`] checks.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_sealed(&self, path: &Path) -> Result<()> {
        let mut metadata = self.metadata.clone();
        metadata.insert(CHECKSUM_KEY.to_owned(), self.checksum()?);
        self.write_with(&metadata, path)
    }

    /// Reads a file that [`Self::write_sealed`] wrote, and checks that no bit of its content has changed since.
    ///
    /// # Errors
    /// As [`Self::read`]; also if the file has no checksum, or one of other content.
    pub fn read_sealed(path: &Path) -> Result<Self> {
        let mut file = Self::read(path)?;
        let stated = file
            .metadata
            .remove(CHECKSUM_KEY)
            .with_context(|| format!("{}: has no checksum", path.display()))?;
        let found = file.checksum()?;
        ensure!(
            stated == found,
            "{}: damaged: its SHA-256 should be {stated} and is {found}",
            path.display()
        );
        Ok(file)
    }

    /// The SHA-256 of the header and of all tensors.
    fn checksum(&self) -> Result<String> {
        let mut digest = Sha256::new();
        digest.update(self.header(&self.metadata)?);
        for tensor in self.tensors.values() {
            digest.update(bytes_of(tensor)?);
        }
        Ok(hex::encode(digest.finalize()))
    }

    fn write_with(&self, metadata: &BTreeMap<String, String>, path: &Path) -> Result<()> {
        let mut header = self.header(metadata)?;
        // The format wants the data to begin at a multiple of 8 bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        write_streamed(path, |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            for tensor in self.tensors.values() {
                file.write_all(&bytes_of(tensor)?)?;
            }
            Ok(())
        })
    }

    /// The header as JSON. The same content always gives the same bytes.
    fn header(&self, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!(metadata));
        let mut begin = 0;
        for (name, tensor) in &self.tensors {
            let kind = tensor.f_kind()?;
            let dtype = match kind {
                Kind::Float => "F32",
                Kind::Double => "F64",
                other => bail!("tensor {name}: {other:?} cannot be written"),
            };
            let end = begin + tensor.numel() * kind.elt_size_in_bytes();
            let entry =
                json!({ "dtype": dtype, "shape": tensor.size(), "data_offsets": [begin, end] });
            header.insert(name.clone(), entry);
            begin = end;
        }
        Ok(serde_json::to_vec(&header)?)
    }
}

/// The bytes of a tensor's elements, row by row.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
    let numel = tensor.numel();
    let mut bytes = vec![0; numel * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, numel)?;
    Ok(bytes)
}

fn not_whole(path: &Path) -> String {
    format!("{}: not a whole safetensors file", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TensorFile {
        let metadata = [("b", "2"), ("a", "1"), ("format", "test")];
        TensorFile {
            metadata: metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            tensors: BTreeMap::from([
                ("x".to_owned(), Tensor::rand([3, 5], (Kind::Float, Device::Cpu)).tr()),
                ("s".to_owned(), Tensor::from(0.1_f64)),
                ("empty".to_owned(), Tensor::zeros([0, 4], (Kind::Double, Device::Cpu))),
            ]),
        }
    }

    #[test]
    fn what_is_written_is_read_and_has_the_same_bytes_twice() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        let written = sample();
        written.write(&first)?;
        let read = TensorFile::read(&first)?;
        assert_eq!(read.metadata, written.metadata);
        assert_eq!(read.tensors, written.tensors);
        read.write(&second)?;
        assert_eq!(fs::read(&first)?, fs::read(&second)?);
        assert_eq!(fs::read_dir(folder.path())?.count(), 2, "nothing is left beside them");
        Ok(())
    }

    #[test]
    fn truncated_anywhere_is_an_error_that_names_the_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("cut.safetensors");
        sample().write(&path)?;
        let whole = fs::read(&path)?;
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length])?;
            let error = format!("{:#}", TensorFile::read(&path).unwrap_err());
            assert!(error.contains("cut.safetensors"), "{error}");
        }
        fs::write(&path, [&[0xff; 8][..], &whole[8..]].concat())?;
        assert!(TensorFile::read(&path).is_err());
        for pickle in [&b"PK\x03\x04 and so on"[..], b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."]
        {
            fs::write(&path, pickle)?;
            let error = format!("{:#}", TensorFile::read(&path).unwrap_err());
            assert!(error.contains("torch.save") && error.contains("save_file"), "{error}");
        }
        // A header of 0x280 bytes is no pickle.
        fs::write(&path, [&[0x80, 2, 0, 0, 0, 0, 0, 0][..], &[b' '; 0x280]].concat())?;
        let error = format!("{:#}", TensorFile::read(&path).unwrap_err());
        assert!(error.contains("not a whole safetensors file"), "{error}");
        Ok(())
    }

    #[test]
    fn no_changed_bit_of_a_sealed_file_goes_unnoticed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sealed.safetensors");
        let written = sample();
        written.write_sealed(&path)?;
        let read = TensorFile::read_sealed(&path)?;
        assert_eq!((&read.metadata, &read.tensors), (&written.metadata, &written.tensors));
        let whole = fs::read(&path)?;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes)?;
            match TensorFile::read_sealed(&path) {
                Err(error) => assert!(format!("{error:#}").contains("sealed.safetensors")),
                // Only the change of a space after the header into another kind of white space goes unnoticed.
                Ok(same) => assert!(whole[at] == b' ' && same.tensors == read.tensors, "{at}"),
            }
        }
        sample().write(&path)?;
        let error = TensorFile::read_sealed(&path).unwrap_err().to_string();
        assert!(error.contains("no checksum"), "{error}");
        Ok(())
    }
}
