//! The command line: messages, exit codes, help and output, as people and scripts see them.

use std::process::Stdio;

use anyhow::{Context, Result};
use dcgan::device::Cuda;

use super::common::{Ran, SMALL, command, dcgan, files, train};

/// Runs `args` in an empty folder, which must stay empty. Asserts the exit code and that the message contains every one
/// of `parts`.
fn assert_refused(args: &str, code: i32, parts: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = dcgan(folder.path(), args);
    assert_eq!(ran.code, Some(code), "dcgan {args}\n{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: "), "dcgan {args}\n{}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "dcgan {args}: no `{part}` in\n{}", ran.stderr);
    }
    let summary = if code == 1 && args.starts_with("verify none") {
        "0 of 1 files agree with TensorFlow\n"
    } else {
        ""
    };
    assert_eq!(ran.stdout, summary);
    assert_eq!(files(folder.path())?.len(), 0);
    Ok(())
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_was_expected_and_found() -> Result<()> {
    for (args, parts) in [
        ("--batch-size 0", ["--batch-size", "expected 1 to 65536", "found 0"]),
        ("--batch-size many", ["--batch-size", "expected a whole number", "'many'"]),
        ("--learning-rate 2", ["--learning-rate", "above 0, up to 1", "found 2"]),
        ("--learning-rate nan", ["--learning-rate", "expected a number", "found NaN"]),
        // TensorFlow's hyperparameters are float32, in which the first of these values is 0 and the second is 1.
        ("--learning-rate 1e-60", ["--learning-rate", "above 0", "found 0.00"]),
        ("--beta1 0.99999999999", ["--beta1", "below 1", "found 0.99999999999"]),
        ("--label-smoothing 1", ["--label-smoothing", "below 1", "found 1"]),
        ("--epochs -3", ["'-3'", "expected a whole number", "--help"]),
        ("--precision f16", ["--precision", "f32, f64, bf16", "'f16'"]),
        ("--latent gamma", ["--latent", "uniform, normal", "'gamma'"]),
        ("--device gpu", ["--device", "cpu, cuda, cuda:N or mps", "`gpu`"]),
        ("--dataset nope", ["--dataset nope", "no such data set", "digits"]),
        ("--bach-size 3", ["'--bach-size'", "similar argument", "--batch-size"]),
        ("--quiet --verbose", ["--quiet", "--verbose", "cannot be used with"]),
        ("--config none.toml", ["--config none.toml", "cannot be read", "No such file"]),
    ] {
        // Few iterations of small networks, so that the test ends soon even if the run is not refused.
        assert_refused(&format!("{args} --iterations 1 --base-width 1"), 2, &parts)?;
    }
    for (args, parts) in [
        ("frobnicate", ["unrecognized", "'frobnicate'", "--help"]),
        ("verify", ["required", "FILE.safetensors", "--help"]),
        ("verify --threads 0 x", ["--threads", "'0'", "1..=1024"]),
        ("bench --base-width 0", ["--base-width", "'0'", "1..=1024"]),
        ("completions tcsh", ["'tcsh'", "bash", "zsh"]),
    ] {
        assert_refused(args, 2, &parts)?;
    }
    Ok(())
}

#[test]
fn a_wrong_configuration_file_is_named_with_its_key_and_the_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (text, parts) in [
        ("bach-size = 3", ["unknown key `bach-size`", "did you mean `batch-size`?"]),
        ("xyzzy = 3", ["unknown key `xyzzy`", "expected one of"]),
        ("seed = \"one\"", ["seed: expected a whole number, 0 or more", "found \"one\""]),
        ("seed = ", ["not valid TOML", "seed = "]),
    ] {
        std::fs::write(folder.path().join("my.toml"), text)?;
        let ran = dcgan(folder.path(), "--config my.toml --iterations 1 --base-width 1");
        assert_eq!(ran.code, Some(2), "{text}");
        for part in parts.iter().chain(&["--config my.toml"]) {
            assert!(ran.stderr.contains(part), "{text}: {}", ran.stderr);
        }
    }
    assert_eq!(files(folder.path())?.len(), 1);
    Ok(())
}

#[test]
fn the_last_of_a_repeated_flag_wins() -> Result<()> {
    for command in ["", "train"] {
        let folder = tempfile::tempdir()?;
        let ran = dcgan(folder.path(), &format!("{command} --seed 1 --seed 2 --dry-run"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("seed = 2\n"), "{}", ran.stdout);
    }
    Ok(())
}

#[test]
fn a_batch_larger_than_the_data_set_is_refused_with_the_number_of_images() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // It is refused before memory is allocated for such a batch.
    let ran = dcgan(folder.path(), &format!("{SMALL} --batch-size 10001 --dry-run"));
    assert!(ran.stderr.contains("--batch-size 10001: there are 10000 images"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn failures_that_are_not_wrong_usage_have_exit_code_1() -> Result<()> {
    assert_refused("verify none.safetensors", 1, &["none.safetensors", "No such file"])?;
    // No file system allows a name of this length.
    let name = "x".repeat(300);
    assert_refused(&format!("{SMALL} --run {name}"), 1, &[&name, "cannot be made"])
}

#[cfg(target_os = "linux")]
#[test]
fn networks_too_large_for_the_memory_are_an_error_in_a_few_lines() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The limit is 16 GB of address space, as if the machine had no more memory. The networks take 140 GB.
    let limited = "ulimit -v 16000000 && exec \"$0\" --device cpu --threads 1 --z-dim 65536 \
                   --base-width 1024 --batch-size 1 --iterations 1 --run run";
    let output = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_dcgan")])
        .current_dir(folder.path())
        .output()?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // A machine that never could have it says so before it tries.
    let is_told = ["error: no memory for networks of", "error: training takes about "];
    assert!(is_told.iter().any(|told| stderr.contains(told)), "{stderr}");
    assert!(stderr.contains("--base-width"), "{stderr}");
    // The message must not contain libtorch's list of C++ stack frames.
    assert!(!stderr.contains("frame #") && stderr.lines().count() <= 3, "{stderr}");
    Ok(())
}

#[test]
fn a_device_that_is_not_there_is_exit_code_1_with_a_remedy() -> Result<()> {
    match Cuda::look().obstacles().first() {
        Some(obstacle) => {
            for command in ["--iterations 1", "sample", "verify x.safetensors", "bench"] {
                let parts = ["--device cuda: ", obstacle];
                assert_refused(&format!("{command} --device cuda"), 1, &parts)?;
            }
            assert_refused("sample --device cuda:0", 1, &["--device cuda:0: ", obstacle])?;
        }
        None => assert_refused(
            "--iterations 1 --device cuda:127",
            1,
            &["--device cuda:127", "no such device"],
        )?,
    }
    if !tch::utils::has_mps() {
        assert_refused("bench --device mps", 1, &["--device mps", "use cpu"])?;
    }
    Ok(())
}

#[test]
fn tf32_is_told_to_change_nothing_on_the_cpu() -> Result<()> {
    let reference =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/f32_rgb_w2_variance.safetensors");
    let verify = format!("verify {reference}");
    for args in ["sample", &verify] {
        let folder = tempfile::tempdir()?;
        let ran = dcgan(folder.path(), &format!("{args} --device cpu --threads 1 --tf32 on"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        // libtorch warns on standard error; it must not.
        let lines: Vec<_> = ran.stderr.lines().filter(|line| !line.contains("64 images")).collect();
        assert_eq!(lines, ["note: --tf32 on changes nothing here: it is for CUDA"]);
    }
    Ok(())
}

#[test]
fn every_command_prints_its_help_short_and_long() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let help = train(folder.path(), "--help").stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // A command begins after two spaces; the following lines of a wrapped description are indented further.
    let listed = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.len(), 18, "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        for flag in ["--help", "-h"] {
            let ran = dcgan(folder.path(), &format!("{name} {flag}"));
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{name}");
            assert!(ran.stdout.contains(&format!("Usage: dcgan {name}")), "{name}: {}", ran.stdout);
        }
    }
    Ok(())
}

#[test]
fn manual_pages_are_of_the_program_and_of_each_command() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (args, title) in [("man", ".TH dcgan 1"), ("man train", ".TH dcgan-train 1")] {
        let ran = train(folder.path(), args);
        assert!(ran.stdout.contains(title), "{args}: {}", &ran.stdout[..200.min(ran.stdout.len())]);
    }
    dcgan(folder.path(), "man nothing").assert_refused("man", 2, &["no such command"]);
    Ok(())
}

#[test]
fn the_version_is_printed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), "--version");
    assert_eq!(ran.stdout, format!("dcgan {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

#[test]
fn a_quiet_run_prints_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), &format!("{SMALL} -q"));
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
    Ok(())
}

#[test]
fn without_a_terminal_a_run_prints_plain_lines() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), &format!("{SMALL} --log-every 2 --run run"));
    assert_eq!(ran.stdout, "");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.stderr);
    assert!(lines[0].contains("10000 images of `digits`") && lines[0].ends_with("goes to run"));
    assert!(lines[1].starts_with("iteration 2/4 · epoch 1 · d_loss "), "{}", lines[1]);
    assert!(lines[2].starts_with("iteration 4/4 · epoch 1 · d_loss "), "{}", lines[2]);
    assert!(lines[3].starts_with("done: 4 iterations"), "{}", lines[3]);
    assert!(lines[3].ends_with("look at run/real_vs_generated.png"), "{}", lines[3]);
    assert!(!ran.stderr.contains(['\r', '\x1b']), "{:?}", ran.stderr);
    Ok(())
}

#[test]
fn a_verbose_run_prints_the_configuration_and_the_layers_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), &format!("{SMALL} -v"));
    for part in ["batch-size = 4", "conv2d_transpose_2, tanh", "iteration 4/4"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    Ok(())
}

#[test]
fn a_reader_that_goes_away_stops_neither_training_nor_printing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for args in [&format!("{SMALL} --run run"), "--dry-run", "completions bash"] {
        let mut child =
            command(folder.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // The pipes are closed long before the first line is written, because libtorch has to be loaded before that.
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait()?.code(), Some(0), "{args}");
    }
    assert!(folder.path().join("run/generator.safetensors").exists());
    Ok(())
}

#[test]
fn completion_scripts_name_the_flags() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish"] {
        let ran = train(folder.path(), &format!("completions {shell}"));
        for flag in ["learning-rate", "dry-run", "verify"] {
            assert!(ran.stdout.contains(flag), "{shell}: {flag}");
        }
        assert_eq!(ran.stderr, "");
    }
    Ok(())
}

#[test]
fn doctor_tells_the_version_of_libtorch_and_what_cuda_lacks() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), "doctor");
    let fact = |name: &str| {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.unwrap_or_else(|| panic!("no line `{name}` in\n{}", ran.stdout))
    };
    assert_eq!(fact("dcgan "), env!("CARGO_PKG_VERSION"));
    assert!(fact("libtorch ").starts_with("2.13.0"), "{}", ran.stdout);
    for precision in ["f32", "bf16"] {
        let ways: Vec<_> = fact(&format!("    {precision} ")).split(", ").collect();
        assert_eq!((ways.len(), ways[2], ways[3]), (6, "columns", "columns"), "{}", ran.stdout);
    }
    let obstacles = Cuda::look().obstacles();
    assert_eq!(fact("CUDA "), if obstacles.is_empty() { "ready" } else { "not usable:" });
    for obstacle in obstacles {
        assert!(ran.stdout.contains(&obstacle), "{}", ran.stdout);
    }
    Ok(())
}

#[test]
fn bench_prints_one_line_of_json() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sizes = "--device cpu --threads 1 --base-width 1 --batch-size 2 --warmup 1 --iterations 3";
    let ran = train(folder.path(), &format!("bench {sizes} --precision f64 --json"));
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""));
    let result: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(result["batch"], 2);
    assert_eq!(result["precision"], "f64");
    assert_eq!(result["threads"], 1);
    assert!(result["matmul_gflop_per_s"].as_f64() > Some(0.0), "{result}");
    assert_eq!(result["convolutions"]["conv2d"], "columns");
    assert_eq!(result["convolutions"].as_object().map(serde_json::Map::len), Some(6));
    let number = |key: &str| result[key].as_f64().with_context(|| format!("{key}: {result}"));
    assert!(number("min_ms")? > 0.0 && number("median_ms")? >= number("min_ms")?);
    if cfg!(target_os = "linux") {
        assert!(number("max_rss_mb")? > 10.0);
    }
    let ran = train(folder.path(), &format!("bench {sizes}"));
    assert!(ran.stdout.contains("ms an iteration"), "{}", ran.stdout);
    assert_eq!(files(folder.path())?.len(), 0);
    Ok(())
}

/// libgomp prints its settings when it is loaded, once for each start of the program.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn idle_threads_sleep_soon_unless_the_user_says_how_they_wait_and_no_start_is_in_vain() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    for (variable, value, expected) in [
        ("OMP_DISPLAY_ENV", "VERBOSE", "10000"),
        ("GOMP_SPINCOUNT", "77", "77"),
        ("OMP_WAIT_POLICY", "passive", "0"),
    ] {
        let args = "sample --count 1 --threads 1 --force";
        let mut command = command(folder.path(), args);
        command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT");
        command.env("OMP_DISPLAY_ENV", "VERBOSE").env(variable, value);
        let ran = Ran::of(command, args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let lines = ran.stderr.lines().filter(|line| line.contains("GOMP_SPINCOUNT"));
        let is_expected: Vec<_> =
            lines.map(|line| line.ends_with(&format!("= '{expected}'"))).collect();
        // A libgomp that does not ask the program needs a second start, in which it finds the variable.
        assert!(
            matches!(is_expected[..], [true] | [false, true]),
            "{variable}={value}: {}",
            ran.stderr
        );
    }
    Ok(())
}
