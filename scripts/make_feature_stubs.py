#!/usr/bin/env python3
"""Makes the small TorchScript modules whose features the tests use: features-*.pt.

Usage: make_feature_stubs.py FOLDER

They stand for the Inception files of public tools. `flag` takes bytes and `return_features`, as the file of
StyleGAN's authors does. `plain` takes floats and returns [N, d, 1, 1]. `nan` returns values that are not
numbers. Needs scripts/peers/requirements-pytorch.txt.
"""

import sys
from pathlib import Path

import torch


class Flag(torch.nn.Module):
    def forward(self, x, return_features: bool = False):
        assert x.dtype == torch.uint8
        x = x.to(torch.float32)
        y = torch.cat([x.mean(dim=[2, 3]), x.std(dim=[2, 3])], 1)
        return y if return_features else y[:, :1]


class Plain(torch.nn.Module):
    def forward(self, x):
        assert x.is_floating_point()
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)[:, :, None, None]


class NoNumber(torch.nn.Module):
    def forward(self, x):
        # Digits have a black border, so this is the logarithm of -1.
        return torch.log(x.to(torch.float32).amin(dim=[2, 3]) - 1)


def main():
    folder = Path(sys.argv[1])
    for name, module in (("flag", Flag()), ("plain", Plain()), ("nan", NoNumber())):
        torch.jit.script(module).save(str(folder / f"features-{name}.pt"))


if __name__ == "__main__":
    main()
