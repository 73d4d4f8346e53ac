//! `dcgan bench`: the time of an iteration.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::architecture::ModelConfig;
use dcgan::bench::{BenchConfig, BenchResult, Exchange};
use dcgan::settings::Switch;
use dcgan::shape::ImageShape;

use super::output::print;
use super::ranks::Part;
use crate::cli::BenchArgs;

/// `dcgan bench`.
///
/// # Errors
/// As [`dcgan::bench::bench`].
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let (device, ranks) = match Part::of(args.ranks, &args.device, args.precision.kind())? {
        Part::Launched(code) => return Ok(code),
        Part::Here(device, ranks) => (device, ranks),
    };
    let is_first = ranks.as_ref().is_none_or(|ranks| ranks.is_first());
    let result = dcgan::bench::bench(&BenchConfig {
        model: ModelConfig {
            image: ImageShape { size: args.image_size, channels: args.channels },
            base_width: args.base_width.into(),
            max_width: args.max_width.map(i64::from),
            ..Default::default()
        },
        batch_size: args.batch_size as usize,
        precision: args.precision,
        plain_convolutions: args.plain_convolutions,
        device,
        warmup: args.warmup.into(),
        iterations: args.iterations.into(),
        graph: args.graph == Switch::On,
        floor: args.floor,
        samples: args.samples as usize,
        ranks: ranks.clone(),
    })?;
    // None ends while another needs it.
    ranks.map_or(Ok(()), |ranks| ranks.barrier())?;
    if !is_first {
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        return print(format!("{}\n", serde_json::to_string(&result)?).as_bytes());
    }
    print(bench_table(&result)?.as_bytes())
}

fn bench_table(result: &BenchResult) -> Result<String> {
    let BenchResult { median_ms, min_ms, images_per_s, gflop_per_s, batch, .. } = result;
    let BenchResult { phases_ms, precision, device, threads, .. } = result;
    let whole_ms = if device.is_cuda() { phases_ms.sum() } else { *median_ms };
    let graph = match (device.is_cuda(), result.graph) {
        (false, _) => "",
        (true, true) => " (one CUDA graph an iteration)",
        (true, false) => " (without a CUDA graph)",
    };
    let memory = result.max_rss_mb.map_or("unknown".to_owned(), |mb| format!("{mb:.0} MB"));
    let mut text = format!(
        "{median_ms:.1} ms an iteration (median of {}, least {min_ms:.1}), {images_per_s:.0} images/s\n\
         batch {batch}, {precision}, {device}{graph}, {threads} threads, peak memory {memory}\n\n",
        result.times_ms.len(),
    );
    if device.is_cuda() {
        text.push_str("parts, each waited for:\n");
    }
    for (phase, ms) in [
        ("batch and noise", phases_ms.data),
        ("generator forward", phases_ms.generator_forward),
        ("discriminator forward", phases_ms.discriminator_forward),
        ("discriminator backward", phases_ms.discriminator_backward),
        ("generator backward", phases_ms.generator_backward),
        ("optimizers", phases_ms.optimizers),
    ] {
        writeln!(text, "  {phase:<24}{ms:>9.1} ms {:>6.1} %", 100. * ms / whole_ms)?;
    }
    if let Some(Exchange { ranks, ms, mb }) = &result.exchange {
        writeln!(
            text,
            "\n{ranks} ranks; of these parts rank 0 exchanges {mb:.1} MB, and waits for others: {ms:.1} ms, {:.1} %",
            100. * ms / whole_ms
        )?;
    }
    let matmul = result.matmul_gflop_per_s;
    // Ranks share the processors, and the product was measured on one of them.
    let share = match result.exchange {
        None => {
            format!("{:.0} % of what a matrix product reaches alone", 100. * gflop_per_s / matmul)
        }
        Some(_) => "a matrix product of one rank reaches alone".to_owned(),
    };
    writeln!(
        text,
        "\n{gflop_per_s:.0} GFLOP/s, counting the plain algorithm's operations in convolutions: {share} \
         ({matmul:.0} GFLOP/s)"
    )?;
    for (layer, algorithm) in &result.convolutions {
        writeln!(text, "  {layer:<24} {}", algorithm.name())?;
    }
    if let Some(floor_ms) = result.floor_ms {
        writeln!(
            text,
            "libtorch's convolutions alone, each in its best layout: {floor_ms:.1} ms; \
             an iteration takes {:.2} times that",
            median_ms / floor_ms
        )?;
    }
    if let Some(samples_per_s) = result.samples_per_s {
        writeln!(text, "sampling: {samples_per_s:.0} images/s")?;
    }
    Ok(text)
}
