//! What tells this program's own output from the images that people have, so that no data set is ever made of it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What the pictures say that made them.
const MAKER: &[u8] = b"dcgan picture";
/// A mark is looked for in so many bytes of a file: a GIF has a palette before it.
const SEARCHED: usize = 2048;
/// Where the first chunk of a PNG file ends: eight bytes of signature, then IHDR.
const PNG_HEADER: usize = 33;

/// `png`, a PNG file, with a line in it that says that this program made it: a picture to look at, no image to train on.
pub fn marked_png(mut png: Vec<u8>) -> Vec<u8> {
    let chunk = png_chunk();
    if png.len() >= PNG_HEADER {
        png.splice(PNG_HEADER..PNG_HEADER, chunk);
    }
    png
}

/// The chunk `tEXt` that marks a PNG file: its length, its kind, the keyword and the text, and the checksum.
fn png_chunk() -> Vec<u8> {
    let text = [b"Software\0", MAKER].concat();
    let body = [b"tEXt".as_slice(), &text].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    [&(text.len() as u32).to_be_bytes(), body.as_slice(), &crc.sum().to_be_bytes()].concat()
}

/// The comment that marks a GIF file.
pub const GIF_COMMENT: &[u8] = MAKER;

/// Whether `bytes` are a picture that this program has marked as its own.
pub fn is_own_picture(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(SEARCHED)];
    let mark = match bytes {
        [0x89, b'P', b'N', b'G', ..] => [b"tEXtSoftware\0", MAKER].concat(),
        // A comment extension with one block.
        [b'G', b'I', b'F', ..] => [&[0x21, 0xfe, MAKER.len() as u8], MAKER].concat(),
        _ => return false,
    };
    head.windows(mark.len()).any(|part| part == mark)
}

/// Whether `folder` is that of a run, of this version or one before: it has a `config.toml` with settings that only this
/// program has, and what training writes beside it. The names are those that the room `run` gives.
pub fn is_run(folder: &Path) -> bool {
    let mut config = Vec::new();
    let is_there = File::open(folder.join("config.toml"))
        .and_then(|file| file.take(1 << 16).read_to_end(&mut config))
        .is_ok();
    let has = |text: &str| config.windows(text.len()).any(|part| part == text.as_bytes());
    is_there
        && has("checkpoint-every")
        && has("label-smoothing")
        && (folder.join("metrics.jsonl").is_file() || folder.join("checkpoints").is_dir())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use anyhow::Result;

    use super::*;

    #[test]
    fn a_marked_picture_is_recognised_and_shows_what_it_showed() -> Result<()> {
        let image = image::GrayImage::from_fn(40, 30, |x, y| image::Luma([(x * y) as u8]));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Png)?;
        let plain = file.into_inner();
        let marked = marked_png(plain.clone());
        assert!(is_own_picture(&marked) && !is_own_picture(&plain));
        assert_eq!(image::load_from_memory(&marked)?.into_luma8(), image);
        Ok(())
    }

    #[test]
    fn a_folder_with_settings_of_a_run_but_without_what_training_writes_is_no_run() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("config.toml");
        std::fs::write(&config, "checkpoint-every = 500\nlabel-smoothing = 0.1\n")?;
        assert!(!is_run(folder.path()));
        std::fs::create_dir(folder.path().join("checkpoints"))?;
        assert!(is_run(folder.path()));
        std::fs::write(&config, "[model]\nname = 'another program'\n")?;
        assert!(!is_run(folder.path()));
        Ok(())
    }
}
