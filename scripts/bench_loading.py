#!/usr/bin/env python3
"""Measures how fast a folder of images is decoded, against a PyTorch DataLoader over Pillow.

Makes folders of JPEG and PNG photographs (500x375 and 64x64) and reads each of them

  - with `dcgan data show` and an empty cache, less the time that the same command takes with a full cache,
    which is the program's start;
  - with a DataLoader that has as many workers as there are cores and does what the usual recipe does: open,
    convert to RGB, take the largest centred square, resample to 32x32 by Lanczos. Its time is that from the
    first worker's start to the last batch.

Both take turns, and the median of the rounds counts. The files are in the system's cache for both.

Needs torch, numpy, Pillow, and target/release/dcgan (scripts/setup.sh && cargo build --release).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent


class Folder(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.rglob("*.*"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        image = Image.open(self.paths[i]).convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return np.array(image.resize((32, 32), Image.Resampling.LANCZOS, box=box))


def photos(folder, count, size, extension, **save):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    for i in range(count):
        waves = [np.sin(x / generator.uniform(3, 40) + y / generator.uniform(3, 40)) for _ in range(3)]
        pixels = 128 + 90 * np.stack(waves, -1) + generator.normal(0, 6, (height, width, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:05}.{extension}", **save)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, metavar="N", help="images in each folder [default: 3000]")
    parser.add_argument("--small", action="store_true", help="only the folders of 64x64, as for 100,000 files")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds [default: 3]")
    arguments = parser.parse_args()
    executable = ROOT / "target" / "release" / "dcgan"
    if not executable.exists():
        parser.error(f"there is no {executable}; build it: cargo build --release")
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="dcgan-loading-") as place:
        place = Path(place)
        for name, size, extension, save in (
            ("JPEG 500x375", (500, 375), "jpg", {"quality": 90}),
            ("PNG 500x375", (500, 375), "png", {}),
            ("JPEG 64x64", (64, 64), "jpg", {"quality": 90}),
            ("PNG 64x64", (64, 64), "png", {}),
        ):
            if arguments.small and size != (64, 64):
                continue
            folder = place / name.replace(" ", "-")
            photos(folder, arguments.count, size, extension, **save)
            environment = dict(os.environ, XDG_CACHE_HOME=str(place / "cache"))
            ours, theirs, starts = [], [], []
            for _ in range(arguments.rounds):
                shutil.rmtree(place / "cache", ignore_errors=True)
                command = [executable, "data", "show", f"folder:{folder}"]
                times = []
                for _ in ("empty cache", "full cache"):
                    start = time.perf_counter()
                    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
                    times.append(time.perf_counter() - start)
                ours.append(arguments.count / (times[0] - times[1]))
                starts.append(times[1])
                start = time.perf_counter()
                for _ in DataLoader(Folder(folder), batch_size=128, num_workers=workers):
                    pass
                theirs.append(arguments.count / (time.perf_counter() - start))
            ours, theirs = statistics.median(ours), statistics.median(theirs)
            start = statistics.median(starts)
            print(
                f"{name:14} {ours:8.0f} images/s, DataLoader {theirs:8.0f}: {ours / theirs:.2f} times; "
                f"with a full cache {start:.2f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
