#!/usr/bin/env python3
"""Records what the usual Python tools compute for the metrics of generative models, as a reference file
that the tests compare with.

Draws small feature matrices, logits and images from the seed, and gives them to torch-fidelity,
pytorch-fid, torchmetrics, prdc, scikit-learn, scikit-image and pytorch-msssim, all in float64. The
inputs and every tool's numbers are written to one safetensors file. Where tools disagree, each number
is kept under the tool's name. Before anything is written, the numbers are compared with one another
and with plain computations in this script.
"""

import argparse
import contextlib
import io
import math
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from make_reference import (
    Failure,
    check_finite,
    check_out,
    encode,
    images_like_photographs,
    number,
    write_whole,
)

PYTHON_VERSIONS = ((3, 10), (3, 13))
REQUIREMENTS = "scripts/requirements-metrics.txt"
TOOLS = (
    "numpy",
    "torch",
    "torch-fidelity",
    "pytorch-fid",
    "torchmetrics",
    "pytorch-msssim",
    "prdc",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "mpmath",
)

# torch-fidelity's default. It draws its subsets with numpy's RandomState of this seed.
KID_SEED = 2020
KID_SUBSETS = 10
NEIGHBOURS = (3, 5)
SPLITS = (1, 10)

# From Wang et al. 2003, for five scales. An image of 32 x 32 has room for fewer.
MS_SSIM_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# For each name: the width of the Gaussian, the taps of its window, the scales. The 11 taps do not fit into
# the third scale, 8 x 8, unless it is padded, so only torchmetrics gives that number.
MS_SSIM_SETTINGS = {
    "ms_ssim_11x2": (1.5, 11, 2),
    "ms_ssim_5x3": (0.5, 5, 3),
    "ms_ssim_11x3": (1.5, 11, 3),
}

PATCH = 7
PATCHES_PER_IMAGE = 32
DIRECTIONS = 32
LEVELS = (32, 16)

EPILOG = f"""\
environment:
  Python 3.10 to 3.13; use an environment of its own:
    python3 -m venv metrics-env
    metrics-env/bin/pip install --no-deps -r {REQUIREMENTS}
    metrics-env/bin/python scripts/make_metrics_reference.py --out metrics.safetensors

exit status:
  0 written, 1 failed (nothing is left at --out), 2 wrong usage

On one machine the same arguments give the same bytes. On another kind of CPU the inputs are the
same, and the results agree to rounding.
"""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="SEED",
        help="seed of every input (default: 0)",
    )
    return parser.parse_args()


# ------------------------------------------------------------------------------------- inputs


def draw_features(np, seed):
    """Case: real and fake [rows, dimensions].

    float32 holds every value. They are multiples of 1/1024 in all cases but `far`, so that sums
    of their products are exact in float64.
    """

    def rng(stream):
        return np.random.default_rng([seed, 1, stream])

    def on_grid(values):
        return np.rint(values * 1024) / 1024

    def correlated(rng, rows, dimensions, mean, spread):
        """Normal rows with means in [-mean, mean] and a random covariance."""
        mix = rng.normal(0, spread / math.sqrt(dimensions), (dimensions, dimensions))
        mix += np.diag(rng.uniform(0.3, 1, dimensions))
        rows = rng.normal(0, 1, (rows, dimensions)) @ mix
        return on_grid(rows + rng.uniform(-mean, mean, dimensions))

    cases = {}
    r = rng(0)
    cases["usual"] = correlated(r, 400, 24, 0.2, 0.8), correlated(r, 300, 24, 0.2, 0.6)

    # Fewer rows than dimensions: both covariances are singular.
    r = rng(1)
    cases["few"] = correlated(r, 20, 48, 0.5, 1), correlated(r, 15, 48, 0.5, 1)

    real = correlated(rng(2), 100, 24, 0.5, 1)
    cases["same"] = real, real.copy()

    # All generated rows are the same.
    r = rng(3)
    cases["constant"] = (
        correlated(r, 100, 24, 0.5, 1),
        np.tile(on_grid(r.normal(0, 0.2, 24)), (80, 1)),
    )

    real = correlated(rng(4), 100, 24, 0.5, 1)
    cases["shifted"] = real, real + 0.375

    # Four clusters against three of them.
    r = rng(5)
    centres = r.normal(0, 3, (4, 8))
    real, fake = np.arange(160) % 4, np.arange(120) % 3
    cases["one_class_missing"] = (
        on_grid(centres[real] + r.normal(0, 0.4, (160, 8))),
        on_grid(centres[fake] + r.normal(0, 0.4, (120, 8))),
    )

    # Many equal distances, and rows that occur several times.
    r = rng(6)
    cases["ties"] = (
        r.integers(0, 4, (120, 4)).astype(np.float64),
        r.integers(0, 3, (100, 4)).astype(np.float64),
    )

    # Means of 100 and deviations of 1, where careless sums lose digits. The first 60 rows are the same.
    r = rng(7)
    real = np.float64(np.float32(r.normal(100, 1, (100, 24))))
    fake = np.float64(np.float32(r.normal(100.1, 0.9, (90, 24))))
    fake[:60] = real[:60]
    cases["far"] = real, fake
    return cases


def draw_logits(np, seed):
    """Case: logits [images, classes]. 203 rows: 10 splits are not equal."""
    r = np.random.default_rng([seed, 2])
    classes = r.integers(0, 10, 203)
    usual = r.normal(0, 1, (203, 10))
    usual[np.arange(203), classes] += 3
    sure = np.full((203, 10), -60.0)
    sure[np.arange(203), classes] = 60
    return {
        "classifier": np.float64(np.float32(usual)),
        "classifier_sure": sure,  # probabilities of 1e-52
        "classifier_same": np.tile(np.float64(np.float32(usual[:1])), (203, 1)),
    }


def draw_images(np, seed):
    """Case: real and fake [N, height, width, channels] of whole numbers 0 to 255.

    Of eight pairs in a row, fake is real with noise, a shift, less contrast, another brightness,
    blurred, in negative, or another image altogether (twice).
    """

    def distort(r, real, other):
        fake = np.empty_like(real)
        for i, image in enumerate(real):
            kinds = (
                lambda: image + r.normal(0, 20, image.shape),
                lambda: np.roll(image, (1, 2), (0, 1)),
                lambda: 128 + 0.5 * (image - 128),
                lambda: image + 30,
                lambda: (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3,
                lambda: 255 - image,
                lambda: other[i],
                lambda: other[i],
            )
            fake[i] = kinds[i % len(kinds)]()
        return np.rint(fake.clip(0, 255))

    cases = {}
    for stream, (name, count, channels) in enumerate(
        (("images_gray", 32, 1), ("images_rgb", 16, 3))
    ):
        r = np.random.default_rng([seed, 3, stream])
        real, other = (
            np.rint((images_like_photographs(np, r, count, channels) + 1) * 127.5) for _ in "ab"
        )
        cases[name] = real, distort(r, real, other)

    # Large enough for five scales with a window of 3.
    r = np.random.default_rng([seed, 3, 2])
    real = np.rint((images_like_photographs(np, r, 4, 1) + 1) * 127.5)
    real = real.repeat(2, 1).repeat(2, 2)[:, :48, :48] + r.normal(0, 6, (4, 48, 48, 1))
    real = np.rint(real.clip(0, 255))
    cases["images_48"] = real, distort(r, real, None)
    return cases


# ------------------------------------------------------------------------------------ features


def frechet(lib, real, fake):
    """The Fréchet distance by every tool, and its exact value."""
    np, torch = lib.np, lib.torch
    torch_real, torch_fake = torch.from_numpy(real), torch.from_numpy(fake)
    statistics = [
        lib.metric_fid.fid_features_to_statistics(rows) for rows in (torch_real, torch_fake)
    ]
    fid = lib.metric_fid.fid_statistics_to_metric(*statistics, verbose=False)

    mean = real.mean(0) - fake.mean(0)
    covariances = [np.cov(rows, rowvar=False) for rows in (real, fake)]
    root = quietly(lambda: lib.linalg.sqrtm(covariances[0] @ covariances[1], disp=False)[0])
    by_scipy = mean @ mean + np.trace(covariances[0] + covariances[1]) - 2 * np.trace(root).real

    metric = lib.torchmetrics_fid(feature=lib.identity(real.shape[1]))
    metric.update(torch_real, real=True)
    metric.update(torch_fake, real=False)

    return {
        "frechet/torch_fidelity": fid["frechet_inception_distance"],
        "frechet/scipy": by_scipy,
        "frechet/pytorch_fid": quietly(
            lambda: lib.pytorch_fid(
                statistics[0]["mu"],
                statistics[0]["sigma"],
                statistics[1]["mu"],
                statistics[1]["sigma"],
            )
        ),
        "frechet/torchmetrics": metric.compute().item(),
        "frechet/exact": exact_frechet(lib.mp, real, fake),
    }


def exact_frechet(mp, real, fake):
    """The Fréchet distance by its definition, computed with 50 digits."""
    with mp.workdps(50):
        (mean1, rows1), (mean2, rows2) = (centred(mp, rows) for rows in (real, fake))
        n1, n2 = len(real), len(fake)
        shift = mean1 - mean2
        # The trace of the product's square root, from its nonzero eigenvalues. A symmetric matrix has the same.
        if real.shape[1] < n1:
            covariance1 = rows1.T * rows1 / (n1 - 1)
            lower = mp.cholesky(covariance1)
            symmetric = lower.T * (rows2.T * rows2 / (n2 - 1)) * lower
        else:
            product = rows1 * rows2.T
            symmetric = product.T * product / ((n1 - 1) * (n2 - 1))
        values = mp.eigsy(symmetric, eigvals_only=True)
        root = sum(mp.sqrt(max(value, 0)) for value in values)
        spread = sum(
            value**2 / (n - 1) for rows, n in ((rows1, n1), (rows2, n2)) for value in rows
        )
        return float(max(sum(value**2 for value in shift) + spread - 2 * root, 0))


def centred(mp, rows):
    """Mean [1, d] and rows less the mean [n, d]."""
    matrix = mp.matrix(rows.tolist())
    mean = mp.matrix(1, matrix.cols)
    for j in range(matrix.cols):
        mean[j] = sum(matrix[i, j] for i in range(matrix.rows)) / matrix.rows
        for i in range(matrix.rows):
            matrix[i, j] -= mean[j]
    return mean, matrix


def kernel_distance(lib, real, fake):
    """Kernel distance with the cubic kernel: of subsets, and of all rows."""
    np, kid = lib.np, lib.metric_kid
    size = 50 if min(len(real), len(fake)) >= 50 else 10
    result = kid.kid_features_to_metric(
        lib.torch.from_numpy(real),
        lib.torch.from_numpy(fake),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=KID_SEED,
        verbose=False,
    )

    # The tool does not say which rows it took, so they are drawn here as it draws them, and the mean is checked.
    rng = np.random.RandomState(KID_SEED)
    rows_real, rows_fake = [], []
    for _ in range(KID_SUBSETS):
        rows_real.append(rng.choice(len(real), size, replace=False))
        rows_fake.append(rng.choice(len(fake), size, replace=False))
    subsets = [
        kid.kernel_mmd(real[i], fake[j], verbose=False) for i, j in zip(rows_real, rows_fake)
    ]
    mean, std = (result[f"kernel_inception_distance_{key}"] for key in ("mean", "std"))
    expect_equal(np, "the subsets drawn as torch-fidelity draws them", np.mean(subsets), mean)
    expect_equal(np, "the subsets drawn as torch-fidelity draws them", np.std(subsets), std)

    # A distance is a small difference of large kernel values.
    longest = max((rows**2).sum(1).max() for rows in (real, fake))
    slack = 1e-14 * (longest / real.shape[1] + 1) ** 3
    for value, i, j in zip(subsets, rows_real, rows_fake):
        by_torchmetrics = lib.poly_mmd(*map(lib.torch.from_numpy, (real[i], fake[j]))).item()
        expect_close(np, "torchmetrics' kernel distance", by_torchmetrics, value, 1e-9, slack)

    common = min(len(real), len(fake))
    first_rows = kid.kernel_mmd(real[:common], fake[:common], verbose=False)
    by_definition = unbiased_mmd(lib, real[:common], fake[:common])
    expect_close(np, "scikit-learn's kernel", by_definition, first_rows, 1e-9, slack)
    return {
        "kid/subsets_real": np.float64(rows_real),
        "kid/subsets_fake": np.float64(rows_fake),
        "kid/mmd2": np.array(subsets),
        "kid/mean": mean,
        "kid/std": std,
        "kid/first_rows": first_rows,
        "kid/full": unbiased_mmd(lib, real, fake),
    }


def unbiased_mmd(lib, real, fake):
    """The unbiased estimate for any two numbers of rows, with scikit-learn's kernel."""
    n, m = len(real), len(fake)

    def kernel(a, b):
        return lib.polynomial_kernel(a, b, degree=3, gamma=1 / real.shape[1], coef0=1)

    def without_diagonal(rows):
        values = kernel(rows, rows)
        return (values.sum() - values.trace()) / (len(rows) * (len(rows) - 1))

    between = kernel(real, fake).sum() / (n * m)
    return without_diagonal(real) + without_diagonal(fake) - 2 * between


def precision_recall(lib, real, fake):
    """Precision, recall, density, coverage: prdc's, torch-fidelity's, and by the definition."""
    tensors = {}
    for k in NEIGHBOURS:
        by_prdc = quietly(lambda: lib.compute_prdc(real, fake, nearest_k=k))
        by_torch = lib.metric_prc.prc_features_to_metric(
            lib.torch.from_numpy(fake),  # its first set is the generated one
            lib.torch.from_numpy(real),
            prc_neighborhood=k,
            verbose=False,
        )
        exact = exact_prdc(lib.np, real, fake, k)
        tensors.update({f"prdc_k{k}/{name}": value for name, value in by_prdc.items()})
        for name in ("precision", "recall"):
            tensors[f"prdc_k{k}/torch_fidelity/{name}"] = by_torch[name]
        tensors.update({f"prdc_k{k}/exact/{name}": value for name, value in exact.items()})
    return tensors


def exact_prdc(np, real, fake, k):
    """prdc's definitions, on exact squares of distances. Also precision and recall with `<=`."""

    def squares(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    def radii(rows):
        distances = squares(rows, rows)
        np.fill_diagonal(distances, np.inf)  # a row is not its own neighbour
        return np.sort(distances, axis=1)[:, k - 1]

    between = squares(real, fake)
    radii_real, radii_fake = radii(real)[:, None], radii(fake)[None]
    inside = between < radii_real
    return {
        "precision": inside.any(0).mean(),
        "recall": (between < radii_fake).any(1).mean(),
        "density": inside.sum() / (k * len(fake)),
        "coverage": inside.any(1).mean(),
        "precision_closed": (between <= radii_real).any(0).mean(),
        "recall_closed": (between <= radii_fake).any(1).mean(),
    }


# ---------------------------------------------------------------------------------- classifier


def classifier_score(lib, logits):
    """The classifier score, which is the Inception score where the classifier is Inception. Rows keep their order."""
    np, torch = lib.np, lib.torch
    tensors = {}
    for splits in SPLITS:
        prefix = f"score_{splits}"
        by_fidelity = lib.metric_isc.isc_features_to_metric(
            torch.from_numpy(logits), splits, shuffle=False
        )
        mean = by_fidelity["inception_score_mean"]
        std = by_fidelity["inception_score_std"]
        tensors[f"{prefix}/mean"], tensors[f"{prefix}/std"] = mean, std

        bounds = [i * len(logits) // splits for i in range(splits + 1)]
        plain = [plain_score(lib, logits[a:b]) for a, b in zip(bounds, bounds[1:])]
        expect_close(np, "scipy's classifier score", np.mean(plain), mean, 1e-9)
        expect_close(np, "scipy's classifier score", np.std(plain), std, 1e-9, 1e-12)

        # torchmetrics always shuffles, so it gets the rows in such an order that its shuffle restores theirs.
        torch.manual_seed(0)
        order = torch.randperm(len(logits))
        shuffled = torch.empty(logits.shape, dtype=torch.float64)
        shuffled[order] = torch.from_numpy(logits)
        metric = lib.torchmetrics_score(feature=lib.identity(logits.shape[1]), splits=splits)
        metric.update(shuffled)
        torch.manual_seed(0)
        by_torchmetrics = metric.compute()
        tensors[f"{prefix}/torchmetrics/mean"] = by_torchmetrics[0].item()
        if splits > 1:  # of one split, its standard deviation is not a number
            tensors[f"{prefix}/torchmetrics/std"] = by_torchmetrics[1].item()
            size = -(-len(logits) // splits)
            plain = [plain_score(lib, logits[a : a + size]) for a in range(0, len(logits), size)]
            expected = np.mean(plain), np.std(plain, ddof=1)
            for value, want in zip(by_torchmetrics, expected):
                expect_close(np, "torchmetrics' classifier score", value, want, 1e-9, 1e-12)
        else:
            expect_close(np, "torchmetrics' score", by_torchmetrics[0].item(), mean, 1e-9)
    return tensors


def plain_score(lib, logits):
    p = lib.softmax(logits, axis=1)
    return math.exp(lib.rel_entr(p, p.mean(0)).sum(1).mean())


# -------------------------------------------------------------------------------------- images


def similarity(lib, real, fake):
    """SSIM of every pair (real[i], fake[i]), and MS-SSIM with settings that fit 32 x 32."""
    np = lib.np
    tensors = {}
    pair = [lib.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in (real, fake)]

    def skimage(real, fake, data_range):
        return np.array(
            [
                lib.structural_similarity(
                    a,
                    b,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                    data_range=data_range,
                    channel_axis=-1,
                )
                for a, b in zip(real, fake)
            ]
        )

    tensors["ssim/skimage"] = skimage(real, fake, 255)
    tensors["ssim_signed/skimage"] = skimage(real / 127.5 - 1, fake / 127.5 - 1, 2)
    window = gaussian(np, 1.5, 11)
    tensors["ssim/pytorch_msssim"] = lib.msssim.ssim(
        *pair, data_range=255, size_average=False, win=torch_window(lib, window, real.shape[-1])
    ).numpy()
    tensors["ssim/torchmetrics"] = lib.torchmetrics_ssim(
        *pair, sigma=1.5, data_range=255, reduction="none"
    ).numpy()

    plain = plain_similarity(np, real, fake, window)[0].mean((1, 2, 3))
    for tool in ("skimage", "pytorch_msssim"):
        expect_close(np, f"SSIM of {tool}", tensors[f"ssim/{tool}"], plain, 1e-9, 1e-12)
    unit = skimage(real / 255, fake / 255, 1)
    expect_close(np, "SSIM of values in [0, 1]", unit, tensors["ssim/skimage"], 1e-9, 1e-12)

    for name, (sigma, taps, scales) in MS_SSIM_SETTINGS.items():
        betas = np.float32(MS_SSIM_BETAS[:scales])
        betas /= betas.sum()  # float32, as torchmetrics takes them
        tensors[f"{name}/betas"] = np.float64(betas)
        tensors[f"{name}/torchmetrics"] = lib.torchmetrics_ms_ssim(
            *pair,
            sigma=sigma,
            # With a Gaussian window, only the check of the image's size uses this.
            kernel_size=3,
            data_range=255,
            betas=tuple(map(float, betas)),
            reduction="none",
        ).numpy()
        padded = plain_ms_ssim(np, real, fake, gaussian(np, sigma, taps), betas, padded=True)
        found = tensors[f"{name}/torchmetrics"]
        expect_close(np, f"torchmetrics' {name}", found, padded, 1e-9, 1e-12)
        if taps > real.shape[1] >> (scales - 1):
            continue
        window = gaussian(np, sigma, taps)
        for key, of_channels in (("valid", False), ("valid_of_channels", True)):
            value = composed_ms_ssim(lib, pair, window, np.float64(betas), of_channels)
            plain = plain_ms_ssim(np, real, fake, window, betas, of_channels=of_channels)
            expect_close(np, f"MS-SSIM {name}/{key}", value, plain, 1e-9, 1e-12)
            tensors[f"{name}/{key}"] = value
    return tensors


def similarity_48(lib, real, fake):
    """pytorch-msssim's own MS-SSIM, which requires images that are large enough for five scales."""
    np = lib.np
    window = gaussian(np, 1.5, 3)
    value = lib.msssim.ms_ssim(
        *(lib.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in (real, fake)),
        data_range=255,
        size_average=False,
        win=torch_window(lib, window, 1),
    ).numpy()
    plain = plain_ms_ssim(np, real, fake, window, np.array(MS_SSIM_BETAS))
    expect_close(np, "pytorch-msssim's MS-SSIM", value, plain, 1e-9, 1e-12)
    return {"ms_ssim_3x5/betas": np.array(MS_SSIM_BETAS), "ms_ssim_3x5/pytorch_msssim": value}


def gaussian(np, sigma, taps):
    """The window along one axis [taps]; its sum is 1."""
    x = np.arange(taps) - taps // 2
    window = np.exp(-(x**2) / (2 * sigma**2))
    return window / window.sum()


def torch_window(lib, window, channels):
    # pytorch-msssim would make its own window in float32, which changes the eighth digit.
    return lib.torch.from_numpy(window).reshape(1, 1, 1, -1).repeat(channels, 1, 1, 1)


def composed_ms_ssim(lib, pair, window, betas, of_channels):
    """MS-SSIM from pytorch-msssim's single scales, because it cannot be asked for fewer than five."""
    torch = lib.torch
    window = torch_window(lib, window, pair[0].shape[1])
    terms = []
    for scale in range(len(betas)):
        if scale:
            pair = [torch.nn.functional.avg_pool2d(images, 2) for images in pair]
        ssim, contrast = lib.msssim.one_scale(*pair, data_range=255, win=window)
        terms.append(ssim if scale == len(betas) - 1 else contrast)  # [images, channels]
    terms = torch.stack(terms)
    if not of_channels:
        terms = terms.mean(-1, keepdim=True)
    powers = torch.relu(terms) ** torch.from_numpy(betas).reshape(-1, 1, 1)
    return powers.prod(0).mean(-1).numpy()


def plain_similarity(np, real, fake, window, padded=False):
    """SSIM and its contrast term of every window [N, y, x, channels], by the definition.

    The windows lie wholly in the image; `padded` is torchmetrics' way: SSIM has a window around
    every pixel of the image continued by reflection, the contrast term leaves the border out.
    """
    border = len(window) // 2
    weights = window[:, None] * window

    def blur(images):
        if padded:
            around = ((0, 0), (border, border), (border, border), (0, 0))
            images = np.pad(images, around, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(images, weights.shape, (1, 2))
        return np.einsum("nyxcij,ij->nyxc", windows, weights, optimize=True)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean1, mean2 = blur(real), blur(fake)
    variances = blur(real**2) - mean1**2 + blur(fake**2) - mean2**2
    contrast = (2 * (blur(real * fake) - mean1 * mean2) + c2) / (variances + c2)
    ssim = (2 * mean1 * mean2 + c1) / (mean1**2 + mean2**2 + c1) * contrast
    if padded:
        contrast = contrast[:, border:-border, border:-border]
    return ssim, contrast


def plain_ms_ssim(np, real, fake, window, betas, padded=False, of_channels=False):
    terms = []
    for scale in range(len(betas)):
        if scale:
            real, fake = half_size(real), half_size(fake)
        ssim, contrast = plain_similarity(np, real, fake, window, padded)
        term = ssim if scale == len(betas) - 1 else contrast
        terms.append(term.mean((1, 2)))
    terms = np.stack(terms)
    if not of_channels:
        terms = terms.mean(-1, keepdims=True)
    return (np.maximum(terms, 0) ** np.float64(betas)[:, None, None]).prod(0).mean(-1)


def half_size(images):
    n, height, width, channels = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def sliced_wasserstein(lib, real, fake, seed):
    """Sliced Wasserstein distance on Laplacian pyramids (Karras et al. 2018), times 1000.

    No package has it. Besides the numbers, the patches' places and the directions are kept.
    """
    np = lib.np
    channels = real.shape[-1]
    rng = np.random.default_rng([seed, 4, channels])
    directions = rng.normal(0, 1, (PATCH * PATCH * channels, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    tensors = {"swd/directions": directions}

    pyramids = [laplacian_pyramid(np, images) for images in (real, fake)]
    for images, levels in zip((real, fake), pyramids):
        again = pyramid_by_scipy(lib, images)
        for level, expected in zip(levels, again):
            expect_close(np, "scipy's Laplacian pyramid", level, expected, 1e-9, 1e-9)

    distances = []
    for i, size in enumerate(LEVELS):
        projected = []
        for side, levels in zip(("real", "fake"), pyramids):
            images = levels[i]
            half = PATCH // 2
            places = rng.integers(half, size - half, (len(images) * PATCHES_PER_IMAGE, 2))
            tensors[f"swd/places_{side}/{size}"] = np.float32(places)
            which = np.arange(len(places)) // PATCHES_PER_IMAGE
            patches = np.stack(
                [
                    images[n, y - half : y + half + 1, x - half : x + half + 1]
                    for n, (y, x) in zip(which, places)
                ]
            )  # [patches, 7, 7, channels]
            patches -= patches.mean((0, 1, 2))
            patches /= patches.std((0, 1, 2))
            # Channel by channel, each row by row.
            flat = patches.transpose(0, 3, 1, 2).reshape(len(patches), -1)
            projected.append(np.sort(flat @ directions, axis=0))
        distances.append(1000 * np.abs(projected[0] - projected[1]).mean())
        by_scipy = [lib.wasserstein_distance(a, b) for a, b in zip(*(p.T for p in projected))]
        expect_close(
            np, "scipy's Wasserstein distance", distances[-1], 1000 * np.mean(by_scipy), 1e-9
        )
    tensors["swd/distance"] = np.array(distances)
    tensors["swd/mean"] = np.mean(distances)
    return tensors


# The pyramid's filter along one axis. The image is continued by reflection about its border pixels.
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def laplacian_pyramid(np, images):
    """Images less what their half-size version gives back, [N, 32, 32, C]; then that version."""

    def blur(images):
        for axis in (1, 2):
            around = [(2, 2) if a == axis else (0, 0) for a in range(4)]
            padded = np.pad(images, around, mode="reflect")
            size = images.shape[axis]
            images = sum(
                weight * np.take(padded, range(i, i + size), axis)
                for i, weight in enumerate(BINOMIAL)
            )
        return images

    levels = []
    for _ in LEVELS[1:]:
        half = blur(images)[:, ::2, ::2]
        spread = np.zeros_like(images)
        spread[:, ::2, ::2] = half
        levels.append(images - 4 * blur(spread))
        images = half
    return [*levels, images]


def pyramid_by_scipy(lib, images):
    kernel = lib.np.outer(BINOMIAL, BINOMIAL)[None, :, :, None]
    half = lib.ndimage.convolve(images, kernel, mode="mirror")[:, ::2, ::2]
    spread = lib.np.zeros_like(images)
    spread[:, ::2, ::2] = half
    return [images - lib.ndimage.convolve(spread, 4 * kernel, mode="mirror"), half]


# -------------------------------------------------------------------------------------- checks


def expect_equal(np, what, found, expected):
    if not np.array_equal(found, expected):
        raise Failure(f"{what}: expected {expected}, found {found}")


def expect_close(np, what, found, expected, relative, absolute=0.0):
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape or not np.allclose(
        found, expected, rtol=relative, atol=absolute
    ):
        raise Failure(f"{what}: expected {expected}, found {found}")


def check_features(np, name, real, fake, tensors):
    """Checks that the tools agree where they should, and that they differ elsewhere for the known reason."""

    def value(key):
        return tensors[f"{name}/{key}"]

    # The eigenvalues of a singular product come out as +-1e-15 instead of 0, and their roots as
    # 1e-8 each.
    exact = value("frechet/exact")
    scale = sum(np.cov(rows, rowvar=False).trace() for rows in (real, fake))
    singular = min(len(real), len(fake)) <= real.shape[1] or name == "constant"
    slack = scale * (1e-6 if singular else 1e-11)
    for tool in ("torch_fidelity", "torchmetrics", "scipy", "pytorch_fid"):
        found = value(f"frechet/{tool}")
        expect_close(np, f"{name}: the Fréchet distance of {tool}", found, exact, 1e-9, slack)

    # prdc's squares of distances are a^2 - 2ab + b^2: in `far` rounding may break ties.
    slack = 0.02 if name == "far" else 0
    for k in NEIGHBOURS:
        prefix = f"prdc_k{k}"
        for key in ("precision", "recall", "density", "coverage"):
            found, expected = value(f"{prefix}/{key}"), value(f"{prefix}/exact/{key}")
            expect_close(np, f"{name}: {key} of prdc, k={k}", found, expected, 1e-12, slack)
        # torch-fidelity's balls are closed, and its means are float32.
        for key in ("precision", "recall"):
            found = value(f"{prefix}/torch_fidelity/{key}")
            expected = value(f"{prefix}/exact/{key}_closed")
            what = f"{name}: {key} of torch-fidelity, k={k}"
            expect_close(np, what, found, expected, 1e-6, slack)

    known = {"same": 0, "shifted": 24 * 0.375**2}
    if name in known:
        expect_close(np, f"{name}: Fréchet", exact, known[name], 1e-12, 1e-12)


# ---------------------------------------------------------------------------------------- main


def quietly(compute):
    """What `compute` returns. Its output and its warnings are discarded."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compute()


def import_tools():
    low, high = PYTHON_VERSIONS
    if not low <= sys.version_info[:2] <= high:
        raise Failure(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}")
    # One thread, so that the same sums are made in the same order every time.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mpmath
            import numpy as np
            import torch
            from prdc import compute_prdc
            from pytorch_fid.fid_score import calculate_frechet_distance
            from pytorch_msssim.ssim import _ssim, ms_ssim, ssim
            from scipy import linalg, ndimage
            from scipy.special import rel_entr, softmax
            from scipy.stats import wasserstein_distance
            from skimage.metrics import structural_similarity
            from sklearn.metrics.pairwise import polynomial_kernel
            from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
            from torchmetrics.functional.image import (
                multiscale_structural_similarity_index_measure,
                structural_similarity_index_measure,
            )
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.inception import InceptionScore
            from torchmetrics.image.kid import poly_mmd
    except ImportError as error:
        raise Failure(f"{error}; pip install --no-deps -r {REQUIREMENTS}") from error
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchmetrics")

    class Identity(torch.nn.Module):
        """Takes the place of the tools' network. Its input already is the features."""

        def __init__(self, num_features):
            super().__init__()
            self.num_features = num_features

        def forward(self, features):
            return features

    return SimpleNamespace(
        np=np,
        torch=torch,
        mp=mpmath.mp,
        linalg=linalg,
        ndimage=ndimage,
        softmax=softmax,
        rel_entr=rel_entr,
        wasserstein_distance=wasserstein_distance,
        polynomial_kernel=polynomial_kernel,
        metric_fid=metric_fid,
        metric_kid=metric_kid,
        metric_prc=metric_prc,
        metric_isc=metric_isc,
        pytorch_fid=calculate_frechet_distance,
        compute_prdc=compute_prdc,
        msssim=SimpleNamespace(ssim=ssim, ms_ssim=ms_ssim, one_scale=_ssim),
        structural_similarity=structural_similarity,
        torchmetrics_ssim=structural_similarity_index_measure,
        torchmetrics_ms_ssim=multiscale_structural_similarity_index_measure,
        torchmetrics_fid=FrechetInceptionDistance,
        torchmetrics_score=InceptionScore,
        poly_mmd=poly_mmd,
        identity=Identity,
    )


def record(lib, seed):
    """Everything that the file holds: the inputs, and the numbers of every tool."""
    np = lib.np
    tensors = {}

    def put(case, values):
        tensors.update({f"{case}/{name}": np.asarray(value) for name, value in values.items()})

    for case, (real, fake) in draw_features(np, seed).items():
        put(case, {"real": real, "fake": fake})
        put(case, frechet(lib, real, fake))
        put(case, kernel_distance(lib, real, fake))
        put(case, precision_recall(lib, real, fake))
        check_features(np, case, real, fake, tensors)
    for case, logits in draw_logits(np, seed).items():
        put(case, {"logits": logits})
        put(case, classifier_score(lib, logits))
    for case, (real, fake) in draw_images(np, seed).items():
        put(case, {"real": np.float32(real), "fake": np.float32(fake)})
        if case == "images_48":
            put(case, similarity_48(lib, real, fake))
            continue
        put(case, similarity(lib, real, fake))
        put(case, sliced_wasserstein(lib, real, fake, seed))
    return tensors


def run(args):
    check_out(args.out, args.force)
    lib = import_tools()
    tensors = record(lib, args.seed)
    check_finite(lib.np, tensors)

    metadata = {name: version(name) for name in TOOLS}
    metadata["format"] = "dcgan-metrics-reference"
    metadata["version"] = "1"
    metadata["seed"] = str(args.seed)
    metadata["kid_seed"] = str(KID_SEED)
    data = encode(lib.np, tensors, metadata)
    write_whole(args.out, data)
    print(f"{args.out}: {len(tensors)} tensors, {len(data):,} bytes")


def main():
    args = parse_arguments()
    try:
        run(args)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
