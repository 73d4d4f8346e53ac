#!/usr/bin/env python3
"""Shows whether metrics order images as one would.

There are two ladders: noise, a GAN after 100, 500 and 2,000 iterations, real digits; and real digits that are
blurred more and more. The GAN is trained here (width 16, built-in digits; 5 minutes on two cores), or is the run
that --run names. Each step of both ladders is measured with `dcgan eval`. Needs target/release/dcgan and numpy
(scripts/peers/venv.sh makes environments that have it).

Exit code: 0 if the Fréchet and the kernel distance order all steps correctly, 1 if not, 2 on wrong usage.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DCGAN = ROOT / "target" / "release" / "dcgan"
ITERATIONS = (100, 500, 2000)
SIGMAS = (0, 0.5, 1, 1.5, 2, 2.5, 3)
COUNT = 5000
DECIDING = ("frechet_distance", "kernel_distance")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, metavar="DIR", help="folder of the run; it is trained there if it is not there yet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")
    return parser.parse_args()


def digits():
    """The built-in digits, padded and shuffled: [10000, 32, 32]."""
    content = gzip.open(ROOT / "assets" / "t10k-images-idx3-ubyte.gz").read()
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return images[np.random.default_rng(0).permutation(len(images))]


def blur(images, sigma):
    if sigma == 0:
        return images
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    x = images.astype(np.float64)
    for axis in (1, 2):
        padding = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(x, padding)
        x = sum(t * np.take(padded, range(i, i + 32), axis) for i, t in enumerate(taps))
    return np.round(x).astype(np.uint8)


def evaluate(*arguments):
    command = [DCGAN, "eval", "--dataset", "digits", "--device", "cpu", "--json", "--count", str(COUNT), *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    report = json.loads(out)
    return {row["metric"]: row["value"] for row in report["metrics"]}, report


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        run = args.run or scratch / "run"
        state = run / "checkpoints" / "iteration-{:06}.safetensors"
        if not Path(str(state).format(ITERATIONS[-1])).exists():
            subprocess.run(
                [DCGAN, "train", "--device", "cpu", "--base-width", "16", "--iterations", str(ITERATIONS[-1]),
                 "--checkpoint-every", "100", "--keep", "50", "--sample-every", "500", "--run", run],
                check=True,
            )

        def images(name, array):
            path = scratch / f"{name}.npz"
            np.savez(path, array[..., None])
            return "--images", str(path)

        real = digits()[:COUNT]
        noise = np.random.default_rng(1).integers(0, 256, (COUNT, 32, 32), dtype=np.uint8)
        ladders = {
            "training": [("noise", images("noise", noise))]
            + [(f"{n:,} iterations", (str(state).format(n),)) for n in ITERATIONS]
            + [("real digits", images("real", real))],
            "blur": [(f"σ {sigma}", images(f"blur{sigma}", blur(real, sigma))) for sigma in SIGMAS],
        }
        failed, numbers = False, {}
        for title, steps in ladders.items():
            values = {}
            for name, arguments in steps:
                values[name], report = evaluate(*arguments)
                print(f"{title}, {name}: measured in {report['elapsed_s']:.0f} s", file=sys.stderr)
            numbers[title] = values
            metrics = list(next(iter(values.values())))
            print(f"\n| {title} | " + " | ".join(metrics) + " |")
            print("|---" * (len(metrics) + 1) + "|")
            for name, row in values.items():
                print(f"| {name} | " + " | ".join(f"{row[metric]:.4g}" for metric in metrics) + " |")
            for metric in metrics:
                series = [row[metric] for row in values.values()]
                steps_up = np.diff(series)
                rising, falling = (steps_up > 0).all(), (steps_up < 0).all()
                if not (rising or falling):
                    print(f"{metric} does not order {title}", file=sys.stderr)
                    failed |= metric in DECIDING
        if args.json:
            args.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
