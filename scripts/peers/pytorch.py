#!/usr/bin/env python3
"""The usual PyTorch port of the reference, written well, timed on random images in memory.

It is what a person would write who ports the reference to PyTorch: `nn` layers in NCHW, PyTorch's own Adam,
and a plain `backward()` for each loss. Layers, shapes, updates and settings are the reference's. Padding and
Adam's epsilon are PyTorch's, so its numbers are near the reference's and not equal to them.
"""

import sys

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import measure


class Generator(nn.Module):
    def __init__(self, width=measure.WIDTH):
        super().__init__()
        self.width = width
        self.dense = nn.Linear(measure.Z_DIM, 4 * 4 * 8 * width)
        self.up = nn.Sequential(
            nn.BatchNorm2d(8 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8 * width, 4 * width, 5, 2, 2, 1),  # [N, 4w, 8, 8]
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4 * width, 2 * width, 5, 2, 2, 1),  # [N, 2w, 16, 16]
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * width, measure.CHANNELS, 5, 2, 2, 1),  # [N, C, 32, 32]
            nn.Tanh(),
        )

    def forward(self, z):
        return self.up(self.dense(z).view(-1, 8 * self.width, 4, 4))


def discriminator(width=measure.WIDTH):
    return nn.Sequential(
        nn.Conv2d(measure.CHANNELS, width, 5, 2, 2),  # [N, w, 16, 16]
        nn.LeakyReLU(measure.LEAK, inplace=True),
        nn.Conv2d(width, 2 * width, 5, 2, 2),  # [N, 2w, 8, 8]
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(measure.LEAK, inplace=True),
        nn.Conv2d(2 * width, 4 * width, 5, 2, 2),  # [N, 4w, 4, 4]
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(measure.LEAK, inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4 * width, 1),
    )


def initialize(module):
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias)


def bce(logits, label):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


class Trainer:
    def __init__(self, args):
        self.batch = args.batch_size
        self.bf16 = args.precision == "bf16"
        generator, critic = Generator(args.base_width).apply(initialize), discriminator(args.base_width).apply(initialize)
        adam = {"lr": measure.LEARNING_RATE, "betas": (measure.BETA1, measure.BETA2)}
        self.g_optimizer = torch.optim.Adam(generator.parameters(), **adam)
        self.d_optimizer = torch.optim.Adam(critic.parameters(), **adam)
        # Each network is compiled as a whole. The losses and Adam stay eager, which is the usual way.
        self.generator = torch.compile(generator) if args.compile else generator
        self.discriminator = torch.compile(critic) if args.compile else critic
        shape = (measure.BATCHES_IN_MEMORY, self.batch, measure.CHANNELS, measure.IMAGE_SIZE, measure.IMAGE_SIZE)
        self.images = torch.rand(shape) * 2 - 1

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16)

    def iterate(self, i):
        """One discriminator update and two generator updates on one z: three generator passes."""
        real = self.images[i % len(self.images)]
        z = torch.empty(self.batch, measure.Z_DIM).uniform_(-1, 1)

        with self.autocast():
            fake = self.generator(z)
            real_loss = bce(self.discriminator(real), measure.REAL_LABEL)
            d_loss = real_loss + bce(self.discriminator(fake.detach()), 0.0)
        self.d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        self.d_optimizer.step()

        for _ in range(2):
            with self.autocast():
                g_loss = bce(self.discriminator(self.generator(z)), 1.0)
            self.g_optimizer.zero_grad(set_to_none=True)
            g_loss.backward()
            self.g_optimizer.step()

        if i % measure.LOG_EVERY == 0:
            print(f"{i}: d_loss {d_loss.item():.4f} g_loss {g_loss.item():.4f}", file=sys.stderr)

    @torch.no_grad()
    def sample(self, count):
        """Images as bytes, with moving statistics, as a person would write the loop."""
        self.generator.eval()
        images = []
        for start in range(0, count, self.batch):
            z = torch.empty(min(self.batch, count - start), measure.Z_DIM).uniform_(-1, 1)
            with self.autocast():
                fake = self.generator(z)
            images.append(((fake.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        self.generator.train()
        return torch.cat(images)


def main():
    parser = measure.argument_parser(__doc__, ("f32", "bf16"))
    parser.add_argument("--samples", type=measure.whole_number(0), default=0, metavar="N", help="sample N images, too")
    parser.add_argument("--compile", action="store_true", help="pass both networks through torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name = f"pytorch {torch.__version__}{' torch.compile' if args.compile else ' eager'}"
    trainer = Trainer(args)
    measure.run(args, name, trainer.iterate, trainer.sample)


if __name__ == "__main__":
    main()
