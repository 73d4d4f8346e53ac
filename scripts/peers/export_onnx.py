#!/usr/bin/env python3
"""Runs an `onnx` export in onnxruntime.

Usage: export_onnx.py FOLDER

Reads z.npy, for a conditional generator class.npy, and generator.onnx from FOLDER and writes the images,
onnxruntime.npy [N, C, height, width], in float32.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def main():
    folder = Path(sys.argv[1])
    inputs = {"z": np.load(folder / "z.npy")}
    if (folder / "class.npy").exists():
        inputs["class"] = np.load(folder / "class.npy")
    path = str(folder / "generator.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], inputs)
    rows = [{name: values[i : i + 1] for name, values in inputs.items()} for i in range(len(images))]
    alone = np.concatenate([session.run(None, row)[0] for row in rows])
    assert np.abs(images - alone).max() <= 1e-5, "another batch size gives other images"
    about = session.get_modelmeta().custom_metadata_map
    assert about["program"].startswith("dcgan ") and about["config"], about
    np.save(folder / "onnxruntime.npy", images)
    print(f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
