//! Exports, what other programs compute with them, and importing them again.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::files::TensorFile;
use dcgan::sample::Sampler;
use protobuf::Message;
use tch::{CModule, Device, Kind, Tensor};

use super::common::{Ran, SMALL, dcgan, files, one_thread, train};

/// Runs the program, which must succeed.
fn run(folder: &Path, arguments: &str) -> Ran {
    let ran = dcgan(folder, arguments);
    assert_eq!(ran.code, Some(0), "dcgan {arguments}\n{}", ran.stderr);
    ran
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Compares with the images of the built-in generator that `scripts/check_exports.sh --save` recorded.
#[test]
fn pytorch_tensorflow_and_onnxruntime_gave_the_same_images() -> Result<()> {
    one_thread();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/exports.safetensors");
    let TensorFile { mut tensors, .. } = TensorFile::read(&path)?;
    let z = tensors.remove("z").context("no z")?;
    assert_eq!(tensors.len(), 4);
    for kind in [Kind::Double, Kind::Float] {
        let ours = Sampler::built_in(Device::Cpu, kind)?.upright(&z.to_kind(kind))?;
        for (program, images) in &tensors {
            let error = largest_difference(images, &ours);
            assert!(error <= 1e-5, "{program}, {kind:?}: {error:e}");
        }
    }
    Ok(())
}

#[test]
fn torchscript_gives_upright_images_of_any_number_of_z_and_says_what_it_is() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    run(folder.path(), "export --out generator.pt");
    let module = CModule::load(folder.path().join("generator.pt"))?;
    let sampler = Sampler::built_in(Device::Cpu, Kind::Double)?;
    for rows in [1, 3, 40] {
        let z = Tensor::from_slice(&sampler.noise(1, 0, rows)).view([rows as i64, -1]);
        let images = module.forward_ts(&[&z])?;
        let error = largest_difference(&images, &sampler.upright(&z.to_kind(Kind::Double))?);
        assert!(error <= 1e-5, "{rows} rows: {error:e}");
    }
    let file = std::fs::File::open(folder.path().join("generator.pt"))?;
    let mut archive = zip::ZipArchive::new(file)?;
    let text = std::io::read_to_string(archive.by_name("generator/extra/dcgan.json")?)?;
    let stated: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(stated["about"]["dataset"], "digits");
    assert_eq!(stated["about"]["base_width"], "16");
    assert!(stated["about"]["config"].as_str().context("no config")?.contains("epochs = 50"));
    Ok(())
}

/// The fields of a protobuf message by their numbers, read by another library than the one that wrote them.
fn fields(message: &[u8]) -> Result<protobuf::UnknownFields> {
    let mut empty = protobuf::well_known_types::Empty::new();
    empty.merge_from_bytes(message)?;
    Ok(empty.get_unknown_fields().clone())
}

#[test]
fn onnx_files_have_the_fields_that_onnx_proto_numbers_so() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    run(folder.path(), "export --out generator.onnx");
    let file = fields(&std::fs::read(folder.path().join("generator.onnx"))?)?;
    let texts = |of: &protobuf::UnknownFields, number: u32| -> Vec<String> {
        let values = of.get(number).map(|values| values.length_delimited.clone());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        values.unwrap_or_default().into_iter().map(text).collect()
    };
    let messages = |of: &protobuf::UnknownFields, number: u32| -> Result<Vec<_>> {
        let values = of.get(number).context("no such field")?;
        values.length_delimited.iter().map(|bytes| fields(bytes)).collect()
    };
    let number = |of: &protobuf::UnknownFields, field: u32| -> Vec<u64> {
        of.get(field).map(|values| values.varint.clone()).unwrap_or_default()
    };
    // ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8, metadata_props 14.
    assert_eq!((number(&file, 1), texts(&file, 2)), (vec![8], vec!["dcgan".to_owned()]));
    assert_eq!(number(&messages(&file, 8)?[0], 2), [17]);
    let about = messages(&file, 14)?;
    let latent = about.iter().find(|entry| texts(entry, 1) == ["latent"]).context("no latent")?;
    assert_eq!(texts(latent, 2), ["uniform"]);
    // GraphProto: node 1, name 2, initializer 5, input 11, output 12. NodeProto: input 1, output 2, op_type 4.
    let graph = &messages(&file, 7)?[0];
    let operators: Vec<_> = messages(graph, 1)?.iter().flat_map(|node| texts(node, 4)).collect();
    assert_eq!(
        operators.join(" "),
        "Gemm Reshape Relu ConvTranspose Relu ConvTranspose Relu ConvTranspose Tanh"
    );
    // AttributeProto: name 1, ints 8, type 20 (7: INTS).
    let convolution = &messages(graph, 1)?[3];
    let pads = &messages(convolution, 5)?[1];
    assert_eq!((texts(pads, 1), number(pads, 8)), (vec!["pads".to_owned()], vec![1, 1, 2, 2]));
    assert_eq!(number(pads, 20), [7]);
    // TensorProto: dims 1, data_type 2 (1: FLOAT, 7: INT64), name 8, raw_data 9.
    let tensors = messages(graph, 5)?;
    assert_eq!(tensors.len(), 9);
    for tensor in &tensors {
        let dims = number(tensor, 1);
        let size = if number(tensor, 2) == [7] { 8 } else { 4 };
        let raw = &tensor.get(9).context("no data")?.length_delimited[0];
        assert_eq!(raw.len() as u64, size * dims.iter().product::<u64>(), "{:?}", texts(tensor, 8));
    }
    // ValueInfoProto: name 1, type 2; TypeProto: tensor_type 1; its shape 2; dim 1; dim_value 1, dim_param 2.
    for (field, name, expected) in [(11, "z", vec![100]), (12, "images", vec![1, 32, 32])] {
        let value = &messages(graph, field)?[0];
        assert_eq!(texts(value, 1), [name]);
        let tensor = &messages(&messages(value, 2)?[0], 1)?[0];
        assert_eq!(number(tensor, 1), [1]);
        let dims = messages(&messages(tensor, 2)?[0], 1)?;
        assert_eq!(texts(&dims[0], 2), ["batch"]);
        let sizes: Vec<u64> = dims[1..].iter().flat_map(|dim| number(dim, 1)).collect();
        assert_eq!(sizes, expected);
    }
    Ok(())
}

#[test]
fn exports_of_either_format_are_imported_bit_for_bit_and_can_be_trained_further() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    for (format, generator, discriminator) in [
        ("tf", "g1.safetensors", "d1.safetensors"),
        ("safetensors", "g2.safetensors", "d2.safetensors"),
    ] {
        let imported = format!("imported-{format}.safetensors");
        for (network, file) in [("generator", generator), ("discriminator", discriminator)] {
            run(
                folder.path(),
                &format!("export run --format {format} --network {network} --out {file}"),
            );
        }
        let ran =
            run(folder.path(), &format!("import {discriminator} {generator} --out {imported}"));
        assert!(ran.stderr.contains("Adam's moments begin at 0"), "{}", ran.stderr);
        for (network, file) in [("generator", generator), ("discriminator", discriminator)] {
            run(
                folder.path(),
                &format!(
                    "export {imported} --format {format} --network {network} --out again.safetensors --force"
                ),
            );
            let (first, again) =
                (folder.path().join(file), folder.path().join("again.safetensors"));
            assert_eq!(std::fs::read(first)?, std::fs::read(again)?, "{format} {network}");
        }
        let ran = run(
            folder.path(),
            &format!("train --resume {imported} --fork on-{format} --iterations 6"),
        );
        assert!(ran.stderr.contains("resuming after iteration 4 of 6"), "{}", ran.stderr);
    }
    // With the generator alone, the discriminator starts from initial values, and a message says so.
    let ran = run(folder.path(), "import g1.safetensors --out alone.safetensors");
    assert!(ran.stderr.contains("discriminator: in none of the files"), "{}", ran.stderr);
    run(folder.path(), "sample alone.safetensors --count 4 --device cpu --out alone.png");
    run(folder.path(), "sample run --count 4 --device cpu --out run.png");
    let picture = |name: &str| std::fs::read(folder.path().join(name));
    assert_eq!(picture("alone.png")?, picture("run.png")?);
    // The weights that the run itself writes at its end are the same as those of an export.
    let read = |name: &str| TensorFile::read(&folder.path().join(name));
    assert_eq!(read("run/generator.safetensors")?.tensors, read("g2.safetensors")?.tensors);
    Ok(())
}

/// Imports a file like those that scripts/tf_checkpoint_to_safetensors.py makes of the reference's checkpoints: it has
/// both networks with their moments and powers, but no settings.
#[test]
fn a_tensorflow_checkpoint_comes_with_sizes_moments_and_powers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    train(folder.path(), &format!("{SMALL} --run run"));
    for network in ["generator", "discriminator"] {
        run(
            folder.path(),
            &format!("export run --format tf --network {network} --out {network}.safetensors"),
        );
    }
    let mut both = TensorFile::read(&path("generator.safetensors"))?;
    both.tensors.extend(TensorFile::read(&path("discriminator.safetensors"))?.tensors);
    both.metadata.retain(|key, _| ["format", "version"].contains(&key.as_str()));
    let trained = |name: &String| !name.contains("/moving_");
    let variables: Vec<_> = both.tensors.keys().filter(|name| trained(name)).cloned().collect();
    for name in variables {
        let kernel = both.tensors[&name].shallow_clone();
        both.tensors.insert(format!("{name}/adam_m"), &kernel * 0.5);
        both.tensors.insert(format!("{name}/adam_v"), kernel.square());
    }
    for (name, power) in [
        ("generator/beta1_power", 0.25_f32),
        ("generator/beta2_power", 0.75),
        ("discriminator/beta1_power", 0.5),
        ("discriminator/beta2_power", 0.875),
    ] {
        both.tensors.insert(name.to_owned(), Tensor::from_slice(&[power]));
    }
    both.write(&path("tf.safetensors"))?;
    let ran = run(folder.path(), "import tf.safetensors --out imported.safetensors");
    assert_eq!(ran.stderr.matches("Adam's moments too").count(), 2, "{}", ran.stderr);
    let state = TensorFile::read(&path("imported.safetensors"))?.tensors;
    for (network, beta1_power, beta2_power) in
        [("generator", 0.25, 0.75), ("discriminator", 0.5, 0.875)]
    {
        assert_eq!(state[&format!("{network}.beta1_power")].double_value(&[]), beta1_power);
        assert_eq!(state[&format!("{network}.beta2_power")].double_value(&[]), beta2_power);
        // Moments lie in the mirrored frame, as their weights do.
        let weight = &state[&format!("{network}.dense.weight")];
        assert_eq!(state[&format!("{network}.dense.weight.adam_m")], weight * 0.5);
        assert_eq!(state[&format!("{network}.dense.weight.adam_v")], weight.square());
    }
    // If one of the moments is missing, the import is refused. It does not take only the others.
    both.tensors.remove("generator/dense/kernel/adam_v");
    both.write(&path("tf.safetensors"))?;
    let ran = dcgan(folder.path(), "import tf.safetensors --out again.safetensors");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("lacks tensor generator/dense/kernel/adam_v"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn what_cannot_be_exported_or_imported_is_refused_and_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    train(place, &format!("{SMALL} --run run"));
    train(place, &format!("{SMALL} --base-width 2 --run wide"));
    run(place, "export run --format tf --out tf.safetensors");
    run(place, "export --out taken.onnx");
    run(place, "export wide --network discriminator --out d.safetensors");
    let change = |name: &str, change: &dyn Fn(&mut TensorFile)| -> Result<()> {
        let mut file = TensorFile::read(&place.join("tf.safetensors"))?;
        change(&mut file);
        file.write(&place.join(name))
    };
    change("version.safetensors", &|file| {
        file.metadata.insert("version".to_owned(), "2".to_owned());
    })?;
    change("lacks.safetensors", &|file| {
        file.tensors.remove("generator/dense/kernel");
    })?;
    change("more.safetensors", &|file| {
        file.tensors.insert("generator/dense/more".to_owned(), Tensor::from(1_f32));
    })?;
    change("shape.safetensors", &|file| {
        file.tensors.insert("generator/dense/bias".to_owned(), Tensor::from_slice(&[1_f32]));
    })?;
    change("nan.safetensors", &|file| {
        let bias = &file.tensors["generator/dense/bias"];
        let nan = bias * f64::NAN;
        file.tensors.insert("generator/dense/bias".to_owned(), nan);
    })?;
    change("variance.safetensors", &|file| {
        let name = "generator/batch_normalization/moving_variance";
        let negative = &file.tensors[name] - 5.0;
        file.tensors.insert(name.to_owned(), negative);
    })?;
    // This value is finite in float64, in which it is stored, but not in float32, in which it is exported.
    change("large.safetensors", &|file| {
        for tensor in file.tensors.values_mut() {
            *tensor = tensor.to_kind(Kind::Double);
        }
        let name = "generator/conv2d_transpose_2/bias";
        let large = &file.tensors[name] + 1e300;
        file.tensors.insert(name.to_owned(), large);
    })?;
    let whole = std::fs::read(place.join("tf.safetensors"))?;
    std::fs::write(place.join("cut.safetensors"), &whole[..whole.len() - 7])?;
    let before = files(place)?;
    for (arguments, code, parts) in [
        ("export run", 2, &["--format", "onnx"][..]),
        ("export run --format pickle", 2, &["--format", "torchscript"]),
        ("export run --out a.h5", 2, &["--format", "safetensors"]),
        ("export nowhere --format onnx", 2, &["nowhere", "no such run"]),
        ("export --out taken.onnx", 2, &["taken.onnx: is there already", "--force"]),
        ("export --out nowhere/a.onnx", 2, &["no folder nowhere"]),
        ("export run --format onnx --network discriminator", 2, &["safetensors or tf"]),
        ("export --format tf --network discriminator", 2, &["name a MODEL"]),
        ("export cut.safetensors --format onnx", 1, &["cut.safetensors", "not a whole"]),
        ("export version.safetensors --format onnx", 1, &["version.safetensors", "version 2"]),
        ("export lacks.safetensors --format onnx", 1, &["lacks tensor generator/dense/kernel"]),
        ("export more.safetensors --format onnx", 1, &["generator/dense/more is none"]),
        ("export shape.safetensors --format onnx", 1, &["generator/dense/bias: expected shape"]),
        ("export nan.safetensors --format onnx", 1, &["nan.safetensors", "dense.bias"]),
        ("export d.safetensors --format onnx", 1, &["expected a generator", "discriminator"]),
        ("import --out a.safetensors", 2, &["<FILE>"]),
        ("import tf.safetensors --out d.safetensors", 2, &["d.safetensors: is there already"]),
        ("import tf.safetensors --out tf.safetensors --force", 2, &["is what is imported"]),
        ("import run --out a.safetensors", 2, &["run: is a folder", "generator.safetensors"]),
        ("export taken.onnx --out a.pt", 2, &["taken.onnx: expected a run, a checkpoint"]),
        ("export run --format onnx --out a.pt", 2, &["--out a.pt", ".onnx"]),
        ("export variance.safetensors --format onnx", 1, &["running_var: a variance is negative"]),
        ("export large.safetensors --format onnx", 1, &["not finite"]),
        (
            "import tf.safetensors tf.safetensors --out a.safetensors",
            2,
            &["holds a generator, and so does"],
        ),
        (
            "import tf.safetensors d.safetensors --out a.safetensors",
            1,
            &["do not fit", "base_width 1 and 2"],
        ),
        ("import nan.safetensors --out a.safetensors", 1, &["nan.safetensors"]),
        ("import run/checkpoints/iteration-000004.safetensors --out a.safetensors", 2, &["--fork"]),
        ("import nowhere --out a.safetensors", 1, &["nowhere"]),
    ] {
        let ran = dcgan(place, arguments);
        ran.assert_refused(arguments, code, parts);
        assert_eq!(files(place)?, before, "{arguments}");
    }
    Ok(())
}
