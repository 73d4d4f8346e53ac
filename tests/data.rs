//! Data sets by their names, as the command line takes them.

use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use serde_json::Value;

use super::common::{Ran, SMALL, command};

/// Runs the program in `folder`, with a cache of its own there.
fn run(folder: &Path, args: &[&str]) -> Result<Ran> {
    let mut command = command(folder, "");
    command.args(args).env("XDG_CACHE_HOME", folder.join("cache")).env_remove("DCGAN_DATA");
    let output = command.output()?;
    let ran = Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    };
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    Ok(ran)
}

/// What `data show` says of a data set.
fn shown(folder: &Path, args: &[&str]) -> Result<Value> {
    let ran = run(folder, &[&["data", "show", "--json"], args].concat())?;
    assert_eq!(ran.code, Some(0), "{args:?}\n{}", ran.stderr);
    Ok(serde_json::from_str(&ran.stdout)?)
}

/// Asserts that a data set is refused with all of `parts`.
fn refused(folder: &Path, args: &[&str], code: i32, parts: &[&str]) -> Result<()> {
    let ran = run(folder, &[&["data", "show"], args].concat())?;
    assert_eq!(ran.code, Some(code), "{args:?}\n{}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "{args:?}: no `{part}` in\n{}", ran.stderr);
    }
    Ok(())
}

fn png(path: &Path, image: impl Into<image::DynamicImage>) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("no parent")?)?;
    image.into().save_with_format(path, ImageFormat::Png)?;
    Ok(())
}

fn gray(value: u8) -> GrayImage {
    GrayImage::from_pixel(32, 32, Luma([value]))
}

fn color(value: u8) -> RgbImage {
    RgbImage::from_fn(32, 32, |x, _| Rgb([value, 255 - value, x as u8]))
}

/// A folder of three classes, with what such folders hold besides.
fn photos(folder: &Path) -> Result<()> {
    for (name, value) in
        [("cat/1.png", 10), ("cat/2.png", 20), ("dog/1.png", 30), ("eel/deep/x.png", 40)]
    {
        png(&folder.join("photos").join(name), color(value))?;
    }
    let photos = folder.join("photos");
    // An image whatever its name says.
    png(&photos.join("dog/2.txt"), color(50))?;
    std::fs::write(photos.join("README.md"), "# Photos")?;
    png(&photos.join(".hidden.png"), color(60))?;
    png(&photos.join(".git/1.png"), color(60))?;
    #[cfg(unix)]
    for (to, link) in [("..", "cat/loop"), ("self", "dog/self"), ("nowhere", "eel/gone")] {
        std::os::unix::fs::symlink(to, photos.join(link))?;
    }
    Ok(())
}

#[test]
fn a_folder_of_images_is_taken_whole_and_what_is_no_image_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let set = shown(folder.path(), &["folder:photos"])?;
    assert_eq!((set["images"].as_u64(), set["channels"].as_u64()), (Some(5), Some(3)));
    assert_eq!((&set["least_value"], &set["greatest_value"]), (&0.into(), &245.into()));
    let others =
        if cfg!(unix) { vec!["README.md", "dog/self", "eel/gone"] } else { vec!["README.md"] };
    let names = serde_json::json!({ "count": others.len(), "names": others });
    assert_eq!(set["findings"]["others"], names);
    assert_eq!(set["findings"]["sizes"], serde_json::json!([[[32, 32], 5]]));
    // All gray is gray; one in colour makes all of them so.
    for value in 0..3 {
        png(&folder.path().join(format!("gray/{value}.png")), gray(value))?;
    }
    assert_eq!(shown(folder.path(), &["folder:gray"])?["channels"], 1);
    assert_eq!(shown(folder.path(), &["folder:gray", "--channels", "3"])?["channels"], 3);
    png(&folder.path().join("gray/9.png"), color(9))?;
    assert_eq!(shown(folder.path(), &["folder:gray"])?["channels"], 3);
    assert_eq!(shown(folder.path(), &["folder:gray", "--channels", "1"])?["channels"], 1);
    Ok(())
}

#[test]
fn the_same_files_give_the_same_set_whatever_the_order_of_the_file_system() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let names: Vec<_> = (0..40).map(|i| format!("{}/{i}.png", i % 3)).collect();
    for (place, order) in
        [("there", (0..40).collect::<Vec<_>>()), ("back", (0..40).rev().collect())]
    {
        for i in order {
            png(&folder.path().join(place).join(&names[i]), gray(i as u8))?;
        }
    }
    let sha = |spec: &str| Ok::<_, anyhow::Error>(shown(folder.path(), &[spec])?["sha256"].clone());
    assert_eq!(sha("folder:there")?, sha("folder:back")?);
    Ok(())
}

#[test]
fn classes_and_limits_choose_among_the_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let count = |args: &[&str]| {
        Ok::<_, anyhow::Error>(
            shown(folder.path(), &[&["folder:photos"], args].concat())?["images"].clone(),
        )
    };
    assert_eq!(count(&["--classes", "cat,deep"])?, 3);
    assert_eq!(count(&["--limit", "2"])?, 2);
    assert_eq!(count(&["--limit", "99"])?, 5);
    assert_eq!(count(&["--classes", "dog", "--limit", "1"])?, 1);
    refused(
        folder.path(),
        &["folder:photos", "--classes", "cow"],
        2,
        &["no class `cow`; it has cat, deep, dog"],
    )?;
    refused(folder.path(), &["digits", "--classes", "x"], 2, &["no class `x`", "0, 1, 2"])?;
    // A file beside the folders belongs to no class, and takes none away.
    png(&folder.path().join("photos/stray.png"), color(7))?;
    assert_eq!(count(&[])?, 6);
    assert_eq!(count(&["--classes", "cat,deep"])?, 3);
    refused(folder.path(), &["folder:photos", "--classes", ""], 2, &["no class ``; it has cat"])?;
    // Digits, too, may be limited; the seed chooses.
    let sha = |seed: &str| {
        let set = shown(folder.path(), &["digits", "--limit", "100", "--seed", seed])?;
        Ok::<_, anyhow::Error>(set["sha256"].clone())
    };
    assert_eq!(sha("1")?, sha("1")?);
    assert_ne!(sha("1")?, sha("2")?);
    Ok(())
}

#[test]
fn an_image_that_cannot_be_read_is_an_error_that_names_it_unless_it_may_be_left_out() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    for i in 0..30 {
        png(&folder.path().join(format!("set/{i:02}.png")), gray(i))?;
    }
    let whole = std::fs::read(folder.path().join("set/07.png"))?;
    std::fs::write(folder.path().join("set/07.png"), &whole[..40])?;
    let parts = ["1 of 30 images cannot be read", "07.png: ", "--skip-bad"];
    // Also from the cache.
    for _ in 0..2 {
        refused(folder.path(), &["folder:set"], 1, &parts)?;
    }
    let ran = run(folder.path(), &["data", "show", "folder:set", "--skip-bad"])?;
    assert!(ran.stdout.contains("images    29") && ran.stdout.contains("07.png"), "{}", ran.stdout);
    assert!(ran.stderr.contains("warning: 1 images cannot be read"), "{}", ran.stderr);
    let few = ["folder:set", "--skip-bad", "--max-bad", "3"];
    refused(folder.path(), &few, 1, &["(3.3 %) cannot be read, more than 3 %", "--max-bad"])?;
    std::fs::write(folder.path().join("set/empty.jpg"), "")?;
    refused(folder.path(), &["folder:set"], 1, &["2 of 31 images", "empty.jpg: empty"])?;
    Ok(())
}

#[test]
fn archives_hold_the_same_images_as_the_folder_they_are_of_and_write_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.txt", "eel/deep/x.png"];
    let bytes = |name: &str| std::fs::read(folder.path().join("photos").join(name));
    let outside = ["../../out.png", "/tmp/dcgan-test-out.png"];

    let mut tar = tar::Builder::new(Vec::new());
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for name in names {
        let bytes = bytes(name)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..])?;
        zip.start_file(name, options)?;
        zip.write_all(&bytes)?;
    }
    let plain_tar = tar.get_ref().clone();
    // Names that lead out of the archive's place, and links.
    for name in outside {
        let bytes = bytes("cat/1.png")?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &bytes[..])?;
        zip.start_file(name, options)?;
        zip.write_all(&bytes)?;
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "link.png", "/etc/passwd")?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain_tar)?;
    let packed = gzip.finish()?;
    std::fs::write(folder.path().join("a.tar"), &plain_tar)?;
    std::fs::write(folder.path().join("a.tgz"), &packed)?;
    std::fs::write(folder.path().join("out.tar"), tar.into_inner()?)?;
    std::fs::write(folder.path().join("out.zip"), zip.finish()?.into_inner())?;

    let set = |spec: &str| shown(folder.path(), &[spec]);
    let expected = set("folder:photos")?["sha256"].clone();
    assert_eq!(set("tar:a.tar")?["sha256"], expected);
    assert_eq!(set("tar:a.tgz")?["sha256"], expected);
    assert_eq!(set("tar:out.tar")?["images"], 7);
    assert_eq!(set("zip:out.zip")?["images"], 7);
    assert!(!Path::new(outside[1]).exists() && !folder.path().join(outside[0]).exists());
    assert_eq!(shown(folder.path(), &["tar:a.tar", "--classes", "cat"])?["images"], 2);

    for length in [packed.len() / 2, packed.len() - 4] {
        std::fs::write(folder.path().join("cut.tgz"), &packed[..length])?;
        refused(folder.path(), &["tar:cut.tgz"], 1, &["cut.tgz", "not a whole tar archive"])?;
    }
    std::fs::write(folder.path().join("cut.tar"), &plain_tar[..700])?;
    refused(folder.path(), &["tar:cut.tar"], 1, &["cut.tar: not a whole tar archive"])?;
    std::fs::write(folder.path().join("cut.zip"), b"PK\x03\x04")?;
    refused(folder.path(), &["zip:cut.zip"], 1, &["cut.zip: cannot be read as a zip archive"])
}

#[test]
fn the_second_time_a_set_comes_from_the_cache_until_its_files_change() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let cached = || -> Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(folder.path().join("cache/dcgan/decoded"))?;
        Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
    };
    let first = shown(folder.path(), &["folder:photos"])?;
    let files = cached()?;
    assert_eq!(files.len(), 1);
    let time = std::fs::metadata(&files[0])?.modified()?;
    assert_eq!(shown(folder.path(), &["folder:photos"])?, first);
    assert_eq!((cached()?, std::fs::metadata(&files[0])?.modified()?), (files.clone(), time));

    // A damaged one is made again.
    let whole = std::fs::read(&files[0])?;
    std::fs::write(&files[0], &whole[..whole.len() / 2])?;
    let ran = run(folder.path(), &["data", "show", "folder:photos", "--json"])?;
    assert!(ran.stderr.contains("not a whole file of images; it is made again"), "{}", ran.stderr);
    assert!(std::fs::read(&files[0])? == whole);

    png(&folder.path().join("photos/cat/3.png"), color(99))?;
    assert_eq!(shown(folder.path(), &["folder:photos"])?["images"], 6);
    assert_eq!(cached()?.len(), 2);
    // Where nothing can be cached, it is read all the same.
    std::fs::remove_dir_all(folder.path().join("cache"))?;
    std::fs::write(folder.path().join("cache"), "a file")?;
    assert_eq!(shown(folder.path(), &["folder:photos"])?["images"], 6);
    Ok(())
}

/// An IDX file of two images of 2×2.
const IDX: [u8; 24] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn array_files_are_read_and_what_is_wrong_with_them_names_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("a.idx"), IDX)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&IDX)?;
    std::fs::write(folder.path().join("a.gz"), gzip.finish()?)?;
    let plain = shown(folder.path(), &["idx:a.idx"])?;
    assert_eq!(
        (&plain["images"], &plain["greatest_value"], &plain["least_value"]),
        (&2.into(), &8.into(), &0.into())
    );
    assert_eq!(shown(folder.path(), &["idx:a.gz"])?["sha256"], plain["sha256"]);
    let stretched = shown(folder.path(), &["idx:a.idx", "--fit", "stretch"])?;
    assert_ne!(stretched["sha256"], plain["sha256"], "no zeros around it");
    for (spec, bytes, told) in [
        ("idx:x", &IDX[..23], "x: IDX data at offset 16"),
        ("mat:x", b"short", "x: MAT header: expected 128 bytes"),
        ("idx:x", b"7z\xbc\xaf\x27\x1c", "x: is a 7-Zip archive"),
        ("zip:x", b"<html>Sorry", "x: is a web page"),
        ("npy:x", b"short", "x: NPY header"),
        ("npz:x", b"short", "x: NPZ"),
        ("idx:x", b"\x1f\x8bshort", "x: not a whole gzip file"),
        ("zip:x", b"short", "x: cannot be read as a zip archive"),
    ] {
        std::fs::write(folder.path().join("x"), bytes)?;
        refused(folder.path(), &[spec], 1, &[spec, told])?;
    }
    refused(folder.path(), &["idx:none"], 1, &["none: cannot be read", "No such file"])?;
    refused(folder.path(), &["folder:none"], 1, &["none: there is no such folder"])?;
    std::fs::create_dir(folder.path().join("empty"))?;
    refused(folder.path(), &["folder:empty"], 1, &["folder:empty: no images"])
}

/// A `.npy` file of these bytes.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn rows_and_numbers_become_images_as_the_flags_that_errors_propose_say() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    let pixels: Vec<u8> = (0..32).collect();
    write("images.npy", &npy("|u1", "(2, 4, 4)", &pixels))?;
    write("rows.npy", &npy("|u1", "(2, 16)", &pixels))?;
    let words: Vec<u8> = pixels.iter().flat_map(|&x| (u16::from(x) * 257).to_le_bytes()).collect();
    write("words.npy", &npy("<u2", "(2, 4, 4)", &words))?;
    let sha = |args: &[&str]| Ok::<_, anyhow::Error>(shown(folder.path(), args)?["sha256"].clone());
    let expected = sha(&["npy:images.npy"])?;
    let parts = ["found 2 rows of 16 numbers", "for example --reshape 4,4"];
    refused(folder.path(), &["npy:rows.npy"], 1, &parts)?;
    assert_eq!(sha(&["npy:rows.npy", "--reshape", "4,4"])?, expected);
    refused(folder.path(), &["npy:rows.npy", "--reshape", "4,5"], 1, &["4, 5, which are 20"])?;
    refused(folder.path(), &["npy:rows.npy", "--reshape", "4"], 2, &["--reshape", "two or three"])?;
    let parts = ["holds uint16 from 0 to 7967", "for example --range=0,65535"];
    refused(folder.path(), &["npy:words.npy"], 1, &parts)?;
    assert_eq!(sha(&["npy:words.npy", "--range=0,65535"])?, expected);
    // Each image on its side, and back.
    let turned: Vec<u8> = (0..32).map(|i| i / 16 * 16 + i % 4 * 4 + i / 4 % 4).collect();
    write("turned.npy", &npy("|u1", "(2, 4, 4)", &turned))?;
    assert_eq!(sha(&["npy:turned.npy", "--transpose"])?, expected);
    assert_ne!(sha(&["npy:turned.npy"])?, expected);
    png(&folder.path().join("photos/1.png"), gray(7))?;
    let parts = ["--transpose: expected a data set of arrays, found one of folder"];
    refused(folder.path(), &["folder:photos", "--transpose"], 2, &parts)?;
    let parts = ["--reshape: expected a data set of npy, npz or mat, found one of digits"];
    refused(folder.path(), &["digits", "--reshape", "28,28"], 2, &parts)?;
    assert_ne!(sha(&["digits"])?, sha(&["digits", "--transpose"])?);
    Ok(())
}

#[test]
fn an_array_of_an_archive_is_named_behind_a_number_sign_unless_a_file_has_that_name() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in [
        ("x_train.npy", npy("|u1", "(2, 4, 4)", &[1; 32])),
        ("y_train.npy", npy("|u1", "(2,)", &[7, 4])),
        ("x_test.npy", npy("|u1", "(1, 4, 4)", &[9; 16])),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default())?;
        zip.write_all(&bytes)?;
    }
    let archive = zip.finish()?.into_inner();
    std::fs::write(folder.path().join("m.npz"), &archive)?;
    let parts = ["found 2; name the one you want", "FILE#NAME", "x_test (uint8 [1, 4, 4])"];
    refused(folder.path(), &["npz:m.npz"], 1, &parts)?;
    let train = shown(folder.path(), &["npz:m.npz#x_train"])?;
    assert_eq!((&train["images"], &train["greatest_value"]), (&2.into(), &1.into()));
    assert_eq!(train["classes"]["names"], serde_json::json!(["4", "7"]));
    assert_eq!(shown(folder.path(), &["npz:m.npz#x_test"])?["greatest_value"], 9);
    std::fs::write(folder.path().join("m.npz#x_test"), &archive)?;
    refused(folder.path(), &["npz:m.npz#x_test"], 1, &["found 2; name the one"])?;
    std::fs::write(folder.path().join("cut.npz"), &archive[..archive.len() - 30])?;
    refused(folder.path(), &["npz:cut.npz"], 1, &["its end is missing", "download it again"])
}

/// A tar archive, gzipped.
fn tar_gz(entries: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..])?;
    }
    Ok(tar.into_inner()?.finish()?)
}

#[test]
fn cifar_is_read_as_it_is_published_in_the_order_of_its_batches() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let record = |labels: &[u8], value: u8| [labels, &[value; 3072]].concat();
    let names = "airplane\nautomobile\nbird\ncat\n\n".as_bytes().to_vec();
    let archive = tar_gz(&[
        ("cifar-10-batches-bin/data_batch_2.bin", record(&[3], 20)),
        ("cifar-10-batches-bin/batches.meta.txt", names),
        ("cifar-10-batches-bin/readme.html", b"<html>".to_vec()),
        ("cifar-10-batches-bin/test_batch.bin", [record(&[1], 30), record(&[3], 31)].concat()),
        ("cifar-10-batches-bin/data_batch_1.bin", record(&[0], 10)),
    ])?;
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("cifar10"))?;
    std::fs::write(folder.path().join("c.tar.gz"), &archive)?;
    std::fs::write(data.join("cifar10/cifar-10-binary.tar.gz"), &archive)?;
    let of = |spec: &str| -> Result<Value> {
        let mut command = command(folder.path(), "data show --json");
        command.arg(spec).env("XDG_CACHE_HOME", folder.path().join("cache"));
        let output = command.env("DCGAN_DATA", &data).output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let all = of("tar:c.tar.gz")?;
    assert_eq!((&all["images"], &all["channels"]), (&4.into(), &3.into()));
    assert_eq!(all["classes"]["names"], serde_json::json!(["airplane", "automobile", "cat"]));
    assert_eq!(of("cifar10")?["sha256"], all["sha256"]);
    let bytes = |values: &[u8]| {
        use sha2::Digest;
        let pixels: Vec<u8> = values.iter().flat_map(|&value| [value; 3072]).collect();
        hex::encode(sha2::Sha256::digest(pixels))
    };
    assert_eq!(all["sha256"], bytes(&[10, 20, 30, 31]));
    assert_eq!(of("cifar10:train")?["sha256"], bytes(&[10, 20]));
    assert_eq!(of("cifar10:test")?["sha256"], bytes(&[30, 31]));
    // What is there is compared with what was published.
    let mut command = command(folder.path(), "data fetch cifar10");
    let output = command.env("DCGAN_DATA", &data).output()?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in
        ["cifar-10-binary.tar.gz: expected MD5 c32a1d4ab5d03f1284b67883e8d87530", "remove it"]
    {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
    Ok(())
}

#[test]
fn emnist_is_upright_with_the_letters_as_classes_from_its_archive_or_its_own_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let gzipped = |bytes: &[u8]| -> Result<Vec<u8>> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes)?;
        Ok(gzip.finish()?)
    };
    // Two images of 2×2, each on its side.
    let sideways = [&IDX[..16], &[1, 3, 2, 4, 5, 7, 6, 8]].concat();
    let files = [
        ("emnist-letters-train-images-idx3-ubyte.gz", gzipped(&sideways)?),
        ("emnist-letters-train-labels-idx1-ubyte.gz", gzipped(&[0, 0, 8, 1, 0, 0, 0, 2, 1, 26])?),
        ("emnist-letters-mapping.txt", b"1 65 97\n26 90 122\n".to_vec()),
    ];
    let (loose, packed) = (folder.path().join("loose"), folder.path().join("packed"));
    std::fs::create_dir_all(packed.join("emnist"))?;
    std::fs::create_dir(&loose)?;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in &files {
        std::fs::write(loose.join(name), bytes)?;
        zip.start_file(format!("gzip/{name}"), zip::write::SimpleFileOptions::default())?;
        zip.write_all(bytes)?;
    }
    std::fs::write(packed.join("emnist/gzip.zip"), zip.finish()?.into_inner())?;
    std::fs::write(folder.path().join("upright"), IDX)?;
    let upright = shown(folder.path(), &["idx:upright"])?["sha256"].clone();
    for data in [&loose, &packed] {
        let mut command = command(folder.path(), "data show --json emnist-letters:train");
        command.env("XDG_CACHE_HOME", folder.path().join("cache")).env("DCGAN_DATA", data);
        let output = command.output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let set: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(set["sha256"], upright);
        assert_eq!(set["classes"]["names"], serde_json::json!(["A", "Z"]));
    }
    // As a file of MNIST's format it is what it is, and labels lie beside it.
    let spec = "idx:loose/emnist-letters-train-images-idx3-ubyte.gz";
    let ran = run(folder.path(), &["data", "show", spec])?;
    assert!(ran.stderr.contains("`transpose` turns them upright"), "{}", ran.stderr);
    let set = shown(folder.path(), &[spec, "--transpose"])?;
    assert_eq!(
        (&set["sha256"], &set["classes"]["names"]),
        (&upright, &serde_json::json!(["1", "26"]))
    );
    Ok(())
}

#[test]
fn a_run_on_a_folder_trains_resumes_and_refuses_other_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let train = |args: &str| {
        let args: Vec<_> = args.split_whitespace().collect();
        run(folder.path(), &args)
    };
    let ran = train(&format!("{SMALL} --dataset folder:photos --flip --run run"))?;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let real = image::open(folder.path().join("run/real.png"))?;
    assert_eq!(real.color(), image::ColorType::Rgb8);
    let ran = train("train --resume run --iterations 5")?;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = train("train --resume run --iterations 6 --limit 3")?;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("limit was all and is 3"), "{}", ran.stderr);
    png(&folder.path().join("photos/cat/1.png"), color(11))?;
    let ran = train("train --resume run --iterations 6")?;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("SHA-256 of the images was "), "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_public_set_is_taken_from_a_folder_that_has_it_and_fetched_from_a_mirror() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let home = folder.path().join("have");
    std::fs::create_dir_all(home.join("kmnist"))?;
    std::fs::write(home.join("kmnist/t10k-images-idx3-ubyte"), IDX)?;
    std::fs::write(home.join("kmnist/t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 4, 9])?;
    let mut command = command(folder.path(), "data show kmnist:test --classes 9 --json");
    command.env("XDG_CACHE_HOME", folder.path().join("cache")).env("DCGAN_DATA", &home);
    let output = command.output()?;
    let set: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&set["images"], &set["greatest_value"]), (&1.into(), &8.into()));

    let mirror = format!("file:{}", home.join("kmnist").display());
    let ran = run(folder.path(), &["data", "fetch", "mnist:test", "--mirror", &mirror])?;
    assert_eq!(ran.code, Some(1));
    for part in ["t10k-images-idx3-ubyte.gz cannot be fetched", "by hand", "No such file"] {
        assert!(ran.stderr.contains(part), "no `{part}` in\n{}", ran.stderr);
    }
    let ran = run(folder.path(), &["data", "fetch", "digits"])?;
    assert_eq!(
        (ran.code, ran.stderr.contains("nothing to fetch")),
        (Some(2), true),
        "{}",
        ran.stderr
    );
    Ok(())
}

#[test]
fn every_format_and_public_set_is_listed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let listed = run(folder.path(), &["data"])?.stdout;
    let names = dcgan::data::spec::names();
    assert!(names.len() >= 12, "{names:?}");
    for (name, meaning) in names {
        let is_listed = |line: &str| line.trim_start().starts_with(&name) && line.contains(meaning);
        assert!(listed.lines().any(is_listed), "no `{name}` in\n{listed}");
    }
    for name in ["digits", "folder:PATH", "zip:FILE", "npz:FILE", "svhn:extra"] {
        assert!(listed.contains(name), "no `{name}` in\n{listed}");
    }
    Ok(())
}

/// The first bytes of a photo as phones make them.
const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\0";

#[test]
fn files_of_kinds_that_are_not_read_are_told_with_what_to_do_and_are_an_error_if_they_are_most()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("photos");
    for i in 0..3 {
        png(&place.join(format!("{i}.png")), color(i))?;
        std::fs::write(place.join(format!("IMG_{i}.HEIC")), HEIC)?;
    }
    let told = ["warning: HEIC photos are not read: 3 (IMG_0.HEIC, IMG_1.HEIC", "heif-convert"];
    // From the files and from the cache.
    for _ in 0..2 {
        let ran = run(folder.path(), &["data", "show", "folder:photos"])?;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        told.iter().for_each(|part| assert!(ran.stderr.contains(part), "{}", ran.stderr));
        assert!(ran.stdout.contains("not read  3 (IMG_0.HEIC"), "{}", ran.stdout);
    }
    std::fs::write(place.join("film.mov"), b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")?;
    let told =
        ["4 files are of kinds that are not read, more than the 3 images", "videos", "ffmpeg"];
    refused(folder.path(), &["folder:photos"], 1, &told)?;
    refused(folder.path(), &["folder:photos"], 1, &["--skip-bad leaves them out"])?;
    assert_eq!(shown(folder.path(), &["folder:photos", "--skip-bad"])?["images"], 3);
    // A page of a server that is named as an image is one that cannot be read.
    std::fs::write(place.join("3.jpg"), "<!DOCTYPE html><title>404</title>")?;
    let told = ["3.jpg: in spite of its name one of the web pages", "download the image again"];
    refused(folder.path(), &["folder:photos"], 1, &told)
}

#[test]
fn what_this_program_writes_is_left_out_of_a_data_set_and_a_run_among_its_data_resumes()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    for i in 0..4 {
        png(&folder.path().join(format!("photos/{i}.png")), color(i))?;
    }
    let set = shown(folder.path(), &["folder:.", "--sheet", "sheet.png"])?;
    let small: Vec<_> = SMALL.split_whitespace().collect();
    let train = ["--dataset", "folder:.", "--run", "runs/mine"];
    let ran = run(folder.path(), &[&train[..], &small].concat())?;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = run(folder.path(), &["--resume", "runs/mine", "--iterations", "5"])?;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let again = shown(folder.path(), &["folder:."])?;
    assert_eq!((&again["images"], &again["sha256"]), (&4.into(), &set["sha256"]));
    let own = serde_json::json!({ "count": 2, "names": ["sheet.png", "runs/mine"] });
    assert_eq!(again["findings"]["own"], own);
    // Neither are its grids alone, nor its film.
    let film =
        ["interpolate", "runs/mine", "--frames", "3", "--scale", "1", "--out", "films/walk.gif"];
    std::fs::create_dir(folder.path().join("films"))?;
    assert_eq!(run(folder.path(), &film)?.code, Some(0));
    for place in ["runs/mine", "runs/mine/samples", "films"] {
        let told = ["no images", "this program's own runs and pictures"];
        refused(folder.path(), &[&format!("folder:{place}")], 1, &told)?;
    }
    // Single images that it makes are data, for example to evaluate.
    let sample = ["sample", "runs/mine", "--count", "3", "--out-dir", "made"];
    assert_eq!(run(folder.path(), &sample)?.code, Some(0));
    assert_eq!(shown(folder.path(), &["folder:made"])?["images"], 3);
    Ok(())
}

#[test]
fn images_of_sixteen_bits_that_use_few_of_them_need_a_range() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let deep = |place: &str, top: u32| {
        let image = image::ImageBuffer::from_fn(32, 32, |x, _| Luma([(x * top / 31) as u16]));
        png(&folder.path().join(place).join("1.png"), image)
    };
    deep("dark", 255)?;
    let told =
        ["--range: of its images, 1 have 16 bits", "only 0 to 255 of 65535", "0,255, or 0,65535"];
    refused(folder.path(), &["folder:dark"], 2, &told)?;
    assert_eq!(shown(folder.path(), &["folder:dark", "--range", "0,255"])?["greatest_value"], 255);
    assert_eq!(shown(folder.path(), &["folder:dark", "--range", "0,65535"])?["greatest_value"], 1);
    refused(folder.path(), &["folder:dark", "--range", "0,99"], 1, &["1.png: ", "found 0 to 255"])?;
    // An eighth of the range is too little, a little more is enough.
    deep("eighth", 8191)?;
    refused(folder.path(), &["folder:eighth"], 2, &["such as 0,8191"])?;
    deep("more", 8192)?;
    assert_eq!(shown(folder.path(), &["folder:more"])?["greatest_value"], 32);
    let ran = run(folder.path(), &["data", "show", "folder:more", "--range", "0,65535"])?;
    assert!(!ran.stderr.contains("range"), "{}", ran.stderr);
    png(&folder.path().join("shallow/1.png"), gray(9))?;
    let ran = run(folder.path(), &["data", "show", "folder:shallow", "--range", "0,255"])?;
    assert!(ran.stderr.contains("no effect"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn gray_images_stored_in_colour_count_as_gray_and_cropping_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let wide = GrayImage::from_fn(128, 32, |x, y| Luma([(x * y % 251) as u8]));
    png(&folder.path().join("wide/1.png"), image::DynamicImage::from(wide).into_rgb8())?;
    let ran = run(folder.path(), &["data", "show", "folder:wide"])?;
    assert!(ran.stdout.contains("channels  1"), "{}", ran.stdout);
    for told in ["1 images are stored in colour, and all are gray", "takes away 75 % of the area"] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    let as_asked = ["folder:wide", "--channels", "3", "--fit", "pad"];
    let ran = run(folder.path(), &[&["data", "show"], &as_asked[..]].concat())?;
    assert!(ran.stdout.contains("channels  3") && ran.stderr.is_empty(), "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_contact_sheet_shows_the_first_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    shown(folder.path(), &["folder:photos", "--sheet", "sheet.png"])?;
    let sheet = image::open(folder.path().join("sheet.png"))?.into_rgb8();
    assert_eq!(sheet.dimensions(), (5 * 32 + 4 * 2, 32));
    assert_eq!([sheet.get_pixel(5, 9).0, sheet.get_pixel(34, 0).0], [[10, 245, 5], [20, 235, 0]]);
    Ok(())
}

#[test]
fn a_jpeg_image_that_ends_too_early_is_an_error_wherever_it_is_cut() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("photos");
    std::fs::create_dir(&place)?;
    let mut whole = Vec::new();
    let noise =
        image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * y % 251) as u8, 9, y as u8]));
    noise.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut whole))?;
    let file = place.join("1.jpg");
    // What cameras put behind an image is none of it.
    std::fs::write(&file, [&whole[..], b"behind it"].concat())?;
    assert_eq!(shown(folder.path(), &["folder:photos"])?["images"], 1);
    for length in [whole.len() / 3, whole.len() / 2, whole.len() - 20, whole.len() - 2] {
        std::fs::write(&file, &whole[..length])?;
        refused(folder.path(), &["folder:photos"], 1, &["1 of 1 images", "1.jpg: "])?;
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn names_that_would_move_the_cursor_are_told_harmlessly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("photos");
    std::fs::create_dir(&place)?;
    std::fs::write(place.join("two\nlines \u{1b}[31m.png"), b"")?;
    refused(folder.path(), &["folder:photos"], 1, &["two\\nlines \\u{1b}[31m.png: empty"])
}

#[test]
fn what_is_packed_otherwise_or_no_file_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (name, magic, told) in [
        ("a.tar.bz2", &b"BZh91AY"[..], "bzip2"),
        ("a.tar.xz", b"\xfd7zXZ\0\0", "xz"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd\0", "zstd"),
    ] {
        std::fs::write(folder.path().join(name), magic)?;
        let spec = format!("tar:{name}");
        refused(folder.path(), &[&spec], 1, &[name, "compressed by", told, "tar.gz"])?;
    }
    std::fs::write(folder.path().join("a.zip"), b"PK\x03\x04")?;
    refused(folder.path(), &["tar:a.zip"], 1, &["a.zip: is a zip archive", "zip:FILE"])?;
    std::fs::create_dir(folder.path().join("f"))?;
    for kind in ["zip", "tar", "idx", "mat", "npy", "npz"] {
        let spec = format!("{kind}:f");
        refused(folder.path(), &[&spec], 1, &["f: is a folder, expected a file"])?;
        #[cfg(unix)]
        {
            let endless = format!("{kind}:/dev/zero");
            refused(folder.path(), &[&endless], 1, &["/dev/zero: is a pipe or a device"])?;
        }
    }
    Ok(())
}

#[test]
fn pixels_that_have_changed_in_the_cache_are_noticed_and_made_anew() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let good = shown(folder.path(), &["folder:photos"])?;
    let cache = folder.path().join("cache/dcgan/decoded");
    let file = std::fs::read_dir(&cache)?.next().context("no file")??.path();
    let mut bytes = std::fs::read(&file)?;
    bytes[100..200].fill(255);
    std::fs::write(&file, bytes)?;
    let ran = run(folder.path(), &["data", "show", "folder:photos", "--json"])?;
    assert!(ran.stderr.contains("damaged; it is made again"), "{}", ran.stderr);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout)?, good);
    let ran = run(folder.path(), &["data", "show", "folder:photos", "--json"])?;
    assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_sheet_replaces_nothing_unless_it_is_told_to_and_a_mirror_is_a_url() -> Result<()> {
    let folder = tempfile::tempdir()?;
    photos(folder.path())?;
    let sheet = "photos/cat/1.png";
    let before = std::fs::read(folder.path().join(sheet))?;
    let parts = ["--sheet photos/cat/1.png: is there already", "--force"];
    refused(folder.path(), &["folder:photos", "--sheet", sheet], 2, &parts)?;
    assert_eq!(std::fs::read(folder.path().join(sheet))?, before);
    std::fs::write(folder.path().join("s.png"), "old")?;
    shown(folder.path(), &["folder:photos", "--sheet", "s.png", "--force"])?;
    assert!(std::fs::read(folder.path().join("s.png"))?.starts_with(b"\x89PNG"));
    for mirror in ["foo", "", "ftp://x"] {
        let ran = run(folder.path(), &["data", "fetch", "mnist", "--mirror", mirror])?;
        assert_eq!(ran.code, Some(2), "{mirror}: {}", ran.stderr);
        assert!(ran.stderr.contains("--mirror") && ran.stderr.contains("file:"), "{}", ran.stderr);
    }
    Ok(())
}
