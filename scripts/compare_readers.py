#!/usr/bin/env python3
"""Compares what dcgan reads from image files and arrays with what Python's readers read from them.

  decoding    PNG, BMP, GIF, TIFF, WebP (lossless), 16 bits, palettes, alpha: every pixel must equal Pillow's
  jpeg        the largest and the mean difference from Pillow (libjpeg-turbo), in levels of 255
  resampling  crop, stretch and pad from several sizes: the same differences from Pillow's Lanczos filter
  arrays      IDX, MAT and NPY: every pixel must equal what was stored with struct, scipy.io and numpy

The script makes its own files. Data sets that are named (SPEC: mat:FILE, idx:FILE, tar:FILE) are compared too.
Needs numpy, scipy, Pillow, and target/release/dcgan (scripts/setup.sh && cargo build --release).

exit status: 0 if all is within bounds, 1 if something is not, 2 on wrong usage
"""

import argparse
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32


class Reader:
    """Reads images with dcgan: from its contact sheet of at most 144 images, which shows every pixel."""

    def __init__(self, executable, folder):
        self.executable, self.folder = executable, folder
        self.environment = dict(os.environ, XDG_CACHE_HOME=str(folder / "cache"))

    def __call__(self, spec, *options):
        sheet = self.folder / "sheet.png"
        command = [self.executable, "data", "show", spec, "--json", "--sheet", sheet, *options]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{spec}: {done.stderr}")
        count = min(144, json.loads(done.stdout)["images"])
        picture = np.asarray(Image.open(sheet))
        picture = picture[..., None] if picture.ndim == 2 else picture
        rows = [divmod(i, 12) for i in range(count)]
        return np.stack([picture[r * 34 : r * 34 + SIZE, c * 34 : c * 34 + SIZE] for r, c in rows])


def difference(ours, theirs):
    theirs = theirs[..., None] if theirs.ndim == 3 else theirs
    if ours.shape[-1] != theirs.shape[-1]:
        ours, theirs = np.broadcast_arrays(ours, theirs)
    gap = np.abs(ours.astype(int) - theirs.astype(int))
    return gap.max(), gap.mean()


def photo(generator, width, height, channels=3):
    """Something with edges and gradients, as photographs have."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        angle, pitch, phase = generator.uniform(0, 3), generator.uniform(8, 60), generator.uniform(0, 6)
        wave = 127 + 90 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 6.28 / pitch + phase)
        disc = np.hypot(x - generator.uniform(0, width), y - generator.uniform(0, height)) < min(width, height) / 3
        planes.append(np.where(disc, generator.integers(0, 256), wave) + generator.normal(0, 4, (height, width)))
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8).squeeze()


def crop(image):
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def stretch(image):
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def pad(image):
    width, height = image.size
    longest = max(width, height)
    if longest > SIZE:
        size = [max(1, (side * SIZE + longest // 2) // longest) for side in (width, height)]
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = Image.new(image.mode, (SIZE, SIZE))
    out.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="further data sets to compare")
    arguments = parser.parse_args()
    executable = ROOT / "target" / "release" / "dcgan"
    if not executable.exists():
        parser.error(f"there is no {executable}; build it: cargo build --release")
    failures = 0

    def told(what, gap, largest_bound, mean_bound=1e9):
        nonlocal failures
        passed = gap[0] <= largest_bound and gap[1] <= mean_bound
        failures += not passed
        print(f"{what:44} largest {gap[0]:3}  mean {gap[1]:.4f}  {'ok' if passed else 'FAILED'}")

    with tempfile.TemporaryDirectory(prefix="dcgan-readers-") as folder:
        folder = Path(folder)
        read = Reader(executable, folder)
        generator = np.random.default_rng(0)

        def compare_files(what, pictures, extension, bounds, options=(), expected=None, **save):
            place = folder / what.replace(" ", "-")
            place.mkdir()
            for i, picture in enumerate(pictures):
                picture.save(place / f"{i:03}.{extension}", **save)
            # What Pillow itself reads back from the file.
            opened = [Image.open(place / f"{i:03}.{extension}") for i in range(len(pictures))]
            theirs = np.stack([np.asarray((expected or (lambda image: image.convert("RGB")))(image)) for image in opened])
            told(what, difference(read(f"folder:{place}", *options), theirs), *bounds)

        color = [Image.fromarray(photo(generator, 32, 32)) for _ in range(12)]
        gray = [picture.convert("L") for picture in color]
        exact = (0,)
        compare_files("PNG colour", color, "png", exact)
        compare_files("PNG gray", gray, "png", exact)
        compare_files("PNG palette", [picture.quantize(64) for picture in color], "png", exact)
        compare_files("PNG 1 bit", [picture.convert("1") for picture in color], "png", exact)
        compare_files("BMP", color, "bmp", exact)
        compare_files("BMP palette", [picture.quantize(64) for picture in color], "bmp", exact)
        compare_files("GIF", [picture.quantize(64) for picture in color], "gif", exact)
        compare_files("TIFF", color, "tif", exact)
        compare_files("TIFF LZW", color, "tif", exact, compression="tiff_lzw")
        compare_files("WebP lossless", color, "webp", exact, lossless=True)
        compare_files("WebP lossy", color, "webp", (3, 0.5), quality=80)
        deep = [Image.fromarray(np.asarray(picture).astype(np.uint16) * 257) for picture in gray]
        eight = lambda image: Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
        compare_files("PNG 16 bits", deep, "png", exact, expected=eight)
        alpha = [picture.copy() for picture in color]
        for picture in alpha:
            picture.putalpha(Image.fromarray(photo(generator, 32, 32, 1)))
        on_white = lambda image: Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        compare_files("PNG alpha on white", alpha, "png", (1, 0.2), ("--background", "white"), on_white)
        luma = lambda image: image.convert("L")
        compare_files("PNG colour to gray", color, "png", exact, ("--channels", "1"), luma)
        for subsampling, name in ((0, "4:4:4"), (2, "4:2:0")):
            compare_files(f"JPEG {name.replace(':', '')}", color, "jpg", (4, 0.6), quality=90, subsampling=subsampling)
        compare_files("JPEG gray", gray, "jpg", (2, 0.3), quality=90)
        compare_files("JPEG progressive", color, "jpg", (4, 0.6), quality=90, progressive=True)
        compare_files("JPEG CMYK", [picture.convert("CMYK") for picture in color], "jpg", (6, 1.0), quality=95)

        for size in ((64, 64), (500, 375), (333, 500), (40, 33), (20, 27), (1000, 64)):
            pictures = [Image.fromarray(photo(generator, *size)) for _ in range(12)]
            for fit in (crop, stretch, pad):
                name = fit.__name__
                compare_files(f"{name} {size[0]}x{size[1]}", pictures, "png", (2, 0.2), ("--fit", name), fit)

        images = generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.save(folder / "a.npy", images)
        told("NPY bytes", difference(read(f"npy:{folder / 'a.npy'}"), images), 0)
        np.save(folder / "f.npy", (images / 255).astype(np.float32).transpose(0, 3, 1, 2))
        told("NPY floats, channels first", difference(read(f"npy:{folder / 'f.npy'}", "--range", "0,1"), images), 0)
        np.savez_compressed(folder / "a.npz", images=images, labels=np.arange(20))
        told("NPZ compressed", difference(read(f"npz:{folder / 'a.npz'}"), images), 0)
        import scipy.io

        for compress in (False, True):
            path = folder / f"{compress}.mat"
            values = {"X": images.transpose(1, 2, 3, 0), "y": np.arange(20.0)[:, None] % 10 + 1}
            scipy.io.savemat(path, values, do_compression=compress)
            told(f"MAT, {'compressed' if compress else 'plain'}", difference(read(f"mat:{path}"), images), 0)
        idx = struct.pack(">4B3I", 0, 0, 8, 3, 20, 32, 32) + images[..., 0].tobytes()
        (folder / "a.gz").write_bytes(gzip.compress(idx))
        told("IDX", difference(read(f"idx:{folder / 'a.gz'}"), images[..., 0]), 0)

        for spec in arguments.specs:
            kind, _, path = spec.partition(":")
            ours = read(spec)
            if kind == "mat":
                theirs = scipy.io.loadmat(path)["X"].transpose(3, 0, 1, 2)[:144]
            elif kind == "idx":
                data = Path(path).read_bytes()
                data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
                shape = struct.unpack(">3I", data[4:16])
                theirs = np.frombuffer(data, np.uint8, offset=16).reshape(shape)[:144]
                margin = [(SIZE - side) // 2 for side in shape[1:]]
                widths = [(edge, SIZE - side - edge) for edge, side in zip(margin, shape[1:])]
                theirs = np.pad(theirs, [(0, 0), *widths])
            elif kind == "tar":
                with tarfile.open(path) as archive:
                    members = [member for member in archive if member.isfile()][:144]
                    pictures = [Image.open(io.BytesIO(archive.extractfile(member).read())) for member in members]
                    theirs = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
            else:
                parser.error(f"{spec}: expected mat:FILE, idx:FILE or tar:FILE")
            told(f"{kind}:{Path(path).name}", difference(ours, theirs), 4 if kind == "tar" else 0)
    print(f"{failures} are not within bounds" if failures else "all within bounds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
