#!/usr/bin/env python3
"""Runs an `onnx` export in onnxruntime.

Usage: export_onnx.py FOLDER

Reads z.npy and generator.onnx from FOLDER and writes the images, onnxruntime.npy [N, C, height, width], in
float32.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def main():
    folder = Path(sys.argv[1])
    z = np.load(folder / "z.npy")
    path = str(folder / "generator.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], {"z": z})
    alone = np.concatenate([session.run(None, {"z": row[None]})[0] for row in z])
    assert np.abs(images - alone).max() <= 1e-5, "another batch size gives other images"
    about = session.get_modelmeta().custom_metadata_map
    assert about["program"].startswith("dcgan ") and about["config"], about
    np.save(folder / "onnxruntime.npy", images)
    print(f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
