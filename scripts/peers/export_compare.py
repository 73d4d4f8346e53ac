#!/usr/bin/env python3
"""Draws the input that exports are compared on, and compares their images. scripts/check_exports.sh calls it.

Usage: export_compare.py z FOLDER | expect FOLDER | table FOLDER [SAVE.safetensors]

  z       draws z.npy; for a conditional generator writes class.npy too, the class of each row
  expect  writes expect.json, which the browser's page is compared with
  table   prints the largest difference of each program, and saves its input and all images to SAVE
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

BOUND = 1e-5
# dcgan's fast transposed convolutions round more than those of other programs (src/tf/winograd.rs).
OWN_BOUND = 3e-5
ROWS = 16
# The arrays that are compared: a program's in float32, and dcgan's in float64.
PAIRS = (
    ("dcgan-f32", "dcgan"),
    ("pytorch", "dcgan"),
    ("torchscript", "dcgan"),
    ("tensorflow", "dcgan"),
    ("onnxruntime", "dcgan"),
    ("tensorflow-checkpoint", "dcgan-imported"),
)


def load(folder, name):
    return np.load(folder / f"{name}.npy")


def make_z(folder):
    with safe_open(folder / "generator.safetensors", "np") as file:
        about = file.metadata()
    rng = np.random.default_rng(0)
    shape = (ROWS, int(about["z_dim"]))
    z = rng.standard_normal(shape) if about["latent"] == "normal" else rng.uniform(-1, 1, shape)
    np.save(folder / "z.npy", z.astype(np.float32))
    if "classes" in about:
        # Classes take turns, as `dcgan sample --z` lets them.
        classes = len(json.loads(about["classes"])["names"])
        np.save(folder / "class.npy", np.arange(ROWS, dtype=np.int64) % classes)


def expect(folder):
    z, images = load(folder, "z")[:4], load(folder, "dcgan")[:4]
    content = {"z": z.tolist(), "images": images.reshape(len(z), -1).tolist()}
    if (folder / "class.npy").exists():
        content["class"] = load(folder, "class")[: len(z)].tolist()
    (folder / "expect.json").write_text(json.dumps(content))


def table(folder, save):
    failed = False
    for theirs, ours in PAIRS:
        a, b = load(folder, theirs), load(folder, ours)
        assert a.shape == b.shape, f"{theirs}: {a.shape} and {b.shape}"
        error = float(np.abs(a.astype(np.float64) - b).max())
        ok = error <= (OWN_BOUND if theirs == "dcgan-f32" else BOUND)  # False for NaN
        failed |= not ok
        print(f"  {theirs:<24}{error:>10.1e}  {'ok' if ok else 'FAILED'}")
    print(f"float32 against float64: largest absolute difference of {ROWS} images in [-1, 1], bound {BOUND:.0e}, our own {OWN_BOUND:.0e}")
    if save and not failed:
        names = ["z", "pytorch", "torchscript", "tensorflow", "onnxruntime"]
        names += ["class"] * (folder / "class.npy").exists()
        tensors = {name: np.ascontiguousarray(load(folder, name)) for name in names}
        save_file(tensors, save, {"format": "dcgan-exports", "version": "1"})
    return int(failed)


def main():
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "z":
        make_z(folder)
    elif what == "expect":
        expect(folder)
    else:
        return table(folder, sys.argv[3] if len(sys.argv) > 3 else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
