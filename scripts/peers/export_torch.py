#!/usr/bin/env python3
"""What PyTorch makes of exports: `safetensors` in plain layers (the lines of the README), `torchscript`.

Usage: export_torch.py FOLDER: reads z.npy, generator.safetensors and generator.pt there, writes
pytorch.npy and torchscript.npy, each [N, C, 32, 32] float32.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn


def generator_of(path):
    """The lines of the README."""
    w = load_file(path)
    width, channels = w["conv2d_transpose_2.weight"].shape[0] // 2, w["conv2d_transpose_2.bias"].numel()
    up = lambda i, o: nn.ConvTranspose2d(i, o, 5, stride=2, padding=2, output_padding=1)
    g = nn.ModuleDict({
        "dense": nn.Linear(w["dense.weight"].shape[1], 16 * 8 * width),
        "batch_normalization": nn.BatchNorm2d(8 * width), "conv2d_transpose": up(8 * width, 4 * width),
        "batch_normalization_1": nn.BatchNorm2d(4 * width), "conv2d_transpose_1": up(4 * width, 2 * width),
        "batch_normalization_2": nn.BatchNorm2d(2 * width), "conv2d_transpose_2": up(2 * width, channels),
    }).eval()
    g.load_state_dict(w, strict=False)

    def sample(z):
        x = g["dense"](z).view(-1, 4, 4, 8 * width).permute(0, 3, 1, 2)
        for i in ("", "_1", "_2"):
            x = g["conv2d_transpose" + i](torch.relu(g["batch_normalization" + i](x)))
        return torch.tanh(x).flip(2, 3)

    return sample


def main():
    folder = Path(sys.argv[1])
    z = torch.from_numpy(np.load(folder / "z.npy"))
    path = folder / "generator.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()
    with torch.no_grad():
        np.save(folder / "pytorch.npy", generator_of(path)(z).contiguous().numpy())
        extra = {"dcgan.json": ""}
        module = torch.jit.load(folder / "generator.pt", _extra_files=extra)
        images = module(z).contiguous()
        # Any batch size, and the same images whatever it is.
        alone = torch.cat([module(row[None]) for row in z])
        assert (images - alone).abs().max() <= 1e-5, "another batch size gives other images"
        np.save(folder / "torchscript.npy", images.numpy())
    stated = json.loads(extra["dcgan.json"])["about"]
    for key in ("program", "dataset", "config", "latent"):
        assert stated[key] == about[key], f"{key}: {stated[key]!r} and {about[key]!r}"
    print(f"pytorch {torch.__version__}")


if __name__ == "__main__":
    main()
