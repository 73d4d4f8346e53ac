//! safetensors files of `tch` tensors, and files that appear whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// A safetensors file's content, in the order of names.
#[derive(Debug, Default)]
pub struct TensorFile {
    /// What the file says of itself.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

/// What a header may take: thousands of times what any file here needs.
const MAX_HEADER_BYTES: u64 = 16 << 20;

impl TensorFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is no safetensors file, is truncated, or holds a tensor of a kind
    /// other than float32 or float64; the message names the file and the tensor.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display();
        let bytes = fs::read(path).with_context(|| format!("{file}: cannot be read"))?;
        if let Some(length) = bytes.first_chunk::<8>() {
            let length = u64::from_le_bytes(*length);
            ensure!(
                length <= MAX_HEADER_BYTES,
                "{file}: not a safetensors file: its first 8 bytes promise a header of {length} bytes"
            );
        }
        let not_one = || format!("{file}: not a whole safetensors file ({} bytes)", bytes.len());
        let (_, header) = SafeTensors::read_metadata(&bytes).with_context(not_one)?;
        let content = SafeTensors::deserialize(&bytes).with_context(not_one)?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in content.iter() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                other => bail!("{file}: tensor {name}: expected F32 or F64, found {other:?}"),
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

    /// Writes `path`, replacing what is there, whole or not at all. The same content gives the same
    /// bytes, which the crate's own writer does not promise: it orders metadata anew each time.
    ///
    /// # Errors
    /// If a tensor is neither float32 nor float64, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!(self.metadata));
        let mut data: Vec<u8> = Vec::new();
        for (name, tensor) in &self.tensors {
            let dtype = match tensor.f_kind()? {
                Kind::Float => "F32",
                Kind::Double => "F64",
                other => bail!("tensor {name}: {other:?} cannot be written"),
            };
            let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
            let (begin, numel) = (data.len(), tensor.numel());
            data.resize(begin + numel * tensor.kind().elt_size_in_bytes(), 0);
            tensor.f_copy_data_u8(&mut data[begin..], numel)?;
            let entry = json!({
                "dtype": dtype, "shape": tensor.size(), "data_offsets": [begin, data.len()],
            });
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        // The data begins at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        write_atomically(path, |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            file.write_all(&data)
        })
    }
}

/// Writes a file whole or not at all: beside, synced, renamed, and the folder synced.
///
/// # Errors
/// If any of that fails; then `path` is what it was, and nothing is left beside it.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let attempt = || -> Result<()> {
        let mut builder = tempfile::Builder::new();
        // A temporary file is private; what it becomes is as readable as the user's other files.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut beside = builder.prefix(".unfinished-").tempfile_in(folder)?;
        write(beside.as_file_mut())?;
        beside.as_file().sync_all()?;
        beside.persist(path)?;
        #[cfg(unix)]
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    attempt().with_context(|| format!("{}: cannot be written", path.display()))
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
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("kept");
        fs::write(&path, "old")?;
        let failing = |file: &mut File| {
            file.write_all(b"new")?;
            Err(std::io::Error::other("full"))
        };
        assert!(write_atomically(&path, failing).is_err());
        assert_eq!(fs::read_to_string(&path)?, "old");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}
