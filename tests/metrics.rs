//! Metrics against what the standard Python tools say, recorded by `scripts/make_metrics_reference.py`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use dcgan::eval::coverage::overlap;
use dcgan::eval::frechet::{Moments, Reference};
use dcgan::eval::kernel::{kernel_distance, mmd2};
use dcgan::eval::metric::Metric;
use dcgan::eval::pixels::{Similarity, patches, pyramid, sliced_wasserstein};
use dcgan::eval::score::classifier_score;
use dcgan::files::TensorFile;
use dcgan::shape::ImageSize;
use tch::{Kind, Tensor};

use super::common::one_thread;

struct Recorded(BTreeMap<String, Tensor>);

impl Recorded {
    fn read() -> Result<Self> {
        one_thread();
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/metrics.safetensors");
        Ok(Self(TensorFile::read(&path)?.tensors))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).with_context(|| name.to_owned())
    }

    fn values(&self, name: &str) -> Result<Vec<f64>> {
        Ok(Vec::try_from(self.tensor(name)?.to_kind(Kind::Double).flatten(0, -1))?)
    }

    fn value(&self, name: &str) -> Result<f64> {
        Ok(self.values(name)?[0])
    }

    fn cases(&self) -> Vec<String> {
        let mut cases: Vec<_> = self
            .0
            .keys()
            .filter_map(|name| name.strip_suffix("/frechet/exact"))
            .map(str::to_owned)
            .collect();
        cases.sort();
        assert_eq!(cases.len(), 8, "{cases:?}");
        cases
    }
}

/// Within 1e-6 of theirs; where that is 0, of `scale`.
fn assert_near(what: &str, ours: f64, theirs: f64, scale: f64) {
    let bound = 1e-6 * theirs.abs() + 1e-10 * scale;
    assert!((ours - theirs).abs() <= bound, "{what}: ours {ours:e}, theirs {theirs:e}");
}

#[test]
fn frechet_distances_are_those_of_exact_arithmetic_and_of_the_tools() -> Result<()> {
    let recorded = Recorded::read()?;
    for case in recorded.cases() {
        let real = Moments::of(recorded.tensor(&format!("{case}/real"))?)?;
        let fake = Moments::of(recorded.tensor(&format!("{case}/fake"))?)?;
        let scale = (real.covariance()?.trace() + fake.covariance()?.trace()).double_value(&[]);
        let there = Reference::new(real);
        let ours = there.distance(&fake)?;
        for tool in ["exact", "torch_fidelity", "torchmetrics", "scipy", "pytorch_fid"] {
            let theirs = recorded.value(&format!("{case}/frechet/{tool}"))?;
            assert_near(&format!("{case}, {tool}"), ours, theirs, scale);
        }
        // The other way round it is the same.
        let back = Reference::new(fake)
            .distance(&Moments::of(recorded.tensor(&format!("{case}/real"))?)?)?;
        assert_near(&format!("{case}, back"), back, ours, scale);
    }
    Ok(())
}

#[test]
fn kernel_distances_are_torch_fidelitys_on_the_same_subsets() -> Result<()> {
    let recorded = Recorded::read()?;
    for case in recorded.cases() {
        let side = |side: &str| recorded.tensor(&format!("{case}/{side}"));
        let (real, fake) = (side("real")?, side("fake")?);
        let rows = |side: &str| -> Result<Vec<Vec<i64>>> {
            let all = recorded.tensor(&format!("{case}/kid/subsets_{side}"))?.to_kind(Kind::Int64);
            Ok(Vec::try_from(all)?)
        };
        let subsets: Vec<_> = rows("real")?.into_iter().zip(rows("fake")?).collect();
        let get = |name: &str| recorded.value(&format!("{case}/kid/{name}"));
        let scale = recorded
            .values(&format!("{case}/kid/mmd2"))?
            .iter()
            .fold(1.0_f64, |a, b| a.max(b.abs()));
        let (mean, std) = kernel_distance(real, fake, &subsets)?;
        assert_near(&format!("{case}, mean"), mean, get("mean")?, scale);
        assert_near(&format!("{case}, std"), std, get("std")?, scale);
        assert_near(&format!("{case}, all"), mmd2(real, fake)?, get("full")?, scale);
        let each = recorded.values(&format!("{case}/kid/mmd2"))?;
        for (subset, theirs) in subsets.into_iter().zip(each) {
            let (ours, std) = kernel_distance(real, fake, &[subset])?;
            assert_near(&format!("{case}, a subset"), ours, theirs, scale);
            assert_eq!(std, 0.0);
        }
    }
    Ok(())
}

#[test]
fn precision_recall_density_and_coverage_are_prdcs() -> Result<()> {
    let recorded = Recorded::read()?;
    for case in recorded.cases() {
        let side = |side: &str| recorded.tensor(&format!("{case}/{side}"));
        for k in [3, 5] {
            let ours = overlap(side("real")?, side("fake")?, k)?;
            for (name, ours) in [
                ("precision", ours.precision),
                ("recall", ours.recall),
                ("density", ours.density),
                ("coverage", ours.coverage),
            ] {
                for tool in ["", "exact/"] {
                    let name = format!("{case}/prdc_k{k}/{tool}{name}");
                    assert_near(&name, ours, recorded.value(&name)?, 1.0);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn classifier_scores_are_torch_fidelitys() -> Result<()> {
    let recorded = Recorded::read()?;
    for case in ["classifier", "classifier_sure", "classifier_same"] {
        for splits in [1, 10] {
            let (mean, std) =
                classifier_score(recorded.tensor(&format!("{case}/logits"))?, splits)?;
            let get = |name: &str| recorded.value(&format!("{case}/score_{splits}/{name}"));
            assert_near(&format!("{case}, {splits}"), mean, get("mean")?, 1.0);
            assert_near(&format!("{case}, {splits}, std"), std, get("std")?, 1.0);
        }
    }
    // Where a class never occurs, torch-fidelity has a NaN; 0 · ln 0 is 0.
    let sure = Tensor::from_slice(&[400_f64, -400., -400., -400., 400., -400.]).view([2, 3]);
    assert!((classifier_score(&sure, 1)?.0 - 2.0).abs() < 1e-12);
    Ok(())
}

/// `[n, C, H, W]`.
fn images(recorded: &Recorded, case: &str, side: &str) -> Result<Tensor> {
    Ok(recorded.tensor(&format!("{case}/{side}"))?.permute([0, 3, 1, 2]))
}

#[test]
fn structural_similarity_is_scikit_images_and_pytorch_msssims() -> Result<()> {
    let recorded = Recorded::read()?;
    let compare = |name: &str, case: &str, similarity: &Similarity| -> Result<()> {
        let (x, y) = (images(&recorded, case, "real")?, images(&recorded, case, "fake")?);
        let ours = similarity.of_pairs(&x, &y)?;
        let theirs = recorded.values(&format!("{case}/{name}"))?;
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            assert_near(&format!("{case}, {name}"), ours, theirs, 10.0);
        }
        assert!(similarity.of_pairs(&x, &x)?.iter().all(|same| (same - 1.0).abs() < 1e-12));
        Ok(())
    };
    for case in ["images_gray", "images_rgb"] {
        compare("ssim/skimage", case, &Similarity::single())?;
        for (name, window, sigma) in [("ms_ssim_11x2", 11, 1.5), ("ms_ssim_5x3", 5, 0.5)] {
            let betas = recorded.values(&format!("{case}/{name}/betas"))?;
            compare(&format!("{name}/valid"), case, &Similarity { window, sigma, betas })?;
        }
    }
    let betas = recorded.values("images_48/ms_ssim_3x5/betas")?;
    assert_eq!(betas.len(), 5);
    // The recorded betas of three scales are the first ones over their sum, in float32.
    let three = recorded.values("images_gray/ms_ssim_5x3/betas")?;
    for (ours, theirs) in Similarity::multi_scale(ImageSize::REFERENCE).betas.into_iter().zip(three)
    {
        assert!((ours - theirs).abs() < 1e-7, "{ours} {theirs}");
    }
    compare("ms_ssim_3x5/pytorch_msssim", "images_48", &Similarity { window: 3, sigma: 1.5, betas })
}

#[test]
fn sliced_wasserstein_distances_are_those_of_plain_numpy() -> Result<()> {
    let recorded = Recorded::read()?;
    for case in ["images_gray", "images_rgb"] {
        let directions = recorded.tensor(&format!("{case}/swd/directions"))?;
        let (real, fake) = (
            pyramid(&images(&recorded, case, "real")?)?,
            pyramid(&images(&recorded, case, "fake")?)?,
        );
        let expected = recorded.values(&format!("{case}/swd/distance"))?;
        for (i, size) in [32, 16].into_iter().enumerate() {
            let places = |side: &str| -> Result<Vec<(i64, i64)>> {
                let flat = recorded.values(&format!("{case}/swd/places_{side}/{size}"))?;
                Ok(flat.chunks_exact(2).map(|place| (place[0] as i64, place[1] as i64)).collect())
            };
            let ours = sliced_wasserstein(
                &patches(&real[i], &places("real")?)?,
                &patches(&fake[i], &places("fake")?)?,
                directions,
            )?;
            assert_near(&format!("{case}, {size}"), ours, expected[i], 1.0);
        }
    }
    Ok(())
}

#[test]
fn every_metric_is_described_in_the_documentation() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&path)?;
    for name in Metric::ALL.map(Metric::name) {
        assert!(text.contains(&format!("`{name}`")), "{}: lacks {name}", path.display());
    }
    Ok(())
}
