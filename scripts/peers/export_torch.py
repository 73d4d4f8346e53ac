#!/usr/bin/env python3
"""Runs exports in PyTorch: `safetensors` by the lines of docs/library.md, and `torchscript`.

Usage: export_torch.py FOLDER

Reads z.npy, for a conditional generator class.npy, generator.safetensors and generator.pt from FOLDER and writes
the images, pytorch.npy and torchscript.npy, each [N, C, height, width] in float32.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent.parent


def documented_sampler(path):
    """The function `sample` of the Python lines in docs/library.md, for the weights in `path`."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    lines = re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1]
    assert '"generator.safetensors"' in lines, "docs/library.md no longer names the file that it loads"
    names = {}
    exec(lines.replace('"generator.safetensors"', repr(str(path))), names)
    return names["sample"]


def main():
    folder = Path(sys.argv[1])
    z = torch.from_numpy(np.load(folder / "z.npy"))
    inputs = (z,)
    path = folder / "generator.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    if (folder / "class.npy").exists():
        asked = torch.from_numpy(np.load(folder / "class.npy"))
        inputs = (z, asked)
        one_hot = torch.nn.functional.one_hot(asked, len(json.loads(about["classes"])["names"]))
        z = torch.cat([z, one_hot.to(z.dtype)], 1)
    with torch.no_grad():
        np.save(folder / "pytorch.npy", documented_sampler(path)(z).contiguous().numpy())
        extra = {"dcgan.json": ""}
        module = torch.jit.load(folder / "generator.pt", _extra_files=extra)
        images = module(*inputs).contiguous()
        # The module takes any batch size and gives the same images.
        alone = torch.cat([module(*(values[None] for values in row)) for row in zip(*inputs)])
        assert (images - alone).abs().max() <= 1e-5, "another batch size gives other images"
        np.save(folder / "torchscript.npy", images.numpy())
    stated = json.loads(extra["dcgan.json"])["about"]
    for key in ("program", "dataset", "config", "latent"):
        assert stated[key] == about[key], f"{key}: {stated[key]!r} and {about[key]!r}"
    print(f"pytorch {torch.__version__}")


if __name__ == "__main__":
    main()
