"""Pretrain the bundled backbone on drawn images without labels of sports or surfaces.

    python tools/pretrain.py --out models/bundled                      # about 25 minutes on one core
    python tools/pretrain.py --out /tmp/try --steps 3 --images 64      # a smoke run of seconds

The images come from tools/pretext.py. From the class token the network predicts which kinds of parts are in the image,
touched by a person and not, the number of people, the pose of the nearest one and the height of the horizon; from every
patch token the fractions of the patch that each role covers.
"""

import argparse
import hashlib
import json
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages lie in the parent folder

from common.files import atomic
from tools.drawn_objects import BACKGROUND_ROLES, CLASSES
from tools.pretext import FIRST_DATA_SEED, POSE_SIZE, draw_example

TIMM_NAME = "vit_tiny_patch16_224"
SIZE, PATCH, DRAWN = 96, 8, 104  # images are drawn a little larger, for random crops
ARCHITECTURE = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 96, "depth": 6, "num_heads": 3}
PRESENCE = CLASSES - BACKGROUND_ROLES
SEEN_PIXELS = 12  # a part with fewer pixels counts as absent
LOSS_WEIGHTS = {"presence": 10.0, "patches": 1.0, "people": 0.3, "layout": 3.0}


class Pretext(nn.Module):
    """The backbone with the linear heads of the pretext tasks, which are not saved."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model(TIMM_NAME, num_classes=0, **ARCHITECTURE)
        width = self.backbone.embed_dim
        self.presence, self.people = nn.Linear(width, PRESENCE), nn.Linear(width, 3)
        self.layout, self.patches = nn.Linear(width, POSE_SIZE + 1), nn.Linear(width, CLASSES)

    def losses(self, images, parts, people, layout):
        """Return the loss of each pretext task.

        images: (B, 3, H, W) float32, normalised.
        parts: (B, H, W) int, role of each pixel.
        people: (B,) int, number of people less 1.
        layout: (B, POSE_SIZE + 1) float32, pose and horizon.
        """
        tokens = self.backbone.forward_features(images)
        summary, patches = tokens[:, 0], tokens[:, 1:]
        shares = patch_shares(parts)
        present = (shares.sum(1) * PATCH**2 >= SEEN_PIXELS)[:, BACKGROUND_ROLES:].float()
        # Most patches show ground or sky; the weight keeps them from dominating the loss.
        weight = 1 + 4 * shares[..., BACKGROUND_ROLES - 1 :].sum(-1)
        dense = -(shares * self.patches(patches).log_softmax(-1)).sum(-1)
        return {
            "presence": F.binary_cross_entropy_with_logits(self.presence(summary), present),
            "patches": (weight * dense).sum() / weight.sum(),
            "people": F.cross_entropy(self.people(summary), people),
            "layout": F.smooth_l1_loss(self.layout(summary), layout, beta=0.1),
        }


def patch_shares(parts):
    """Return the fraction of each patch that each role covers: (B, H, W) ints below CLASSES -> (B, N, CLASSES)."""
    batch, height, width = parts.shape
    blocks = (
        parts.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH)
        .permute(0, 1, 3, 2, 4)
        .reshape(batch, -1, PATCH**2)
    )
    shares = torch.zeros(*blocks.shape[:2], CLASSES)
    return shares.scatter_add_(2, blocks.long(), torch.full(blocks.shape, 1 / PATCH**2))


def _draw(job):
    data_seed, index = job
    example = draw_example(data_seed, index, DRAWN)
    return example.image, example.parts, example.people - 1, np.append(example.pose, np.float32(example.horizon))


def draw_examples(data_seed, count, processes=2):
    """Draw all training images, in `processes` processes.

    Returns images (N, DRAWN, DRAWN, 3) uint8, parts (N, DRAWN, DRAWN) uint8, people less 1 (N,) int64, and pose and
    horizon (N, POSE_SIZE + 1) float32.
    """
    images, parts = (
        torch.empty(count, DRAWN, DRAWN, 3, dtype=torch.uint8),
        torch.empty(count, DRAWN, DRAWN, dtype=torch.uint8),
    )
    people, layout = torch.empty(count, dtype=torch.long), torch.empty(count, POSE_SIZE + 1)
    jobs = ((data_seed, index) for index in range(count))
    with Pool(processes) as pool:
        for i, example in enumerate(tqdm(pool.imap(_draw, jobs, chunksize=32), "drawing", count, disable=None)):
            images[i], parts[i] = torch.from_numpy(example[0]), torch.from_numpy(example[1])
            people[i], layout[i] = example[2], torch.from_numpy(example[3])
    return images, parts, people, layout


def batch_of(examples, chosen, generator):
    """Crop, mirror and recolour the chosen examples at random, with their labels.

    examples: what `draw_examples` returns.
    chosen: (B,) int64, indices of examples.
    generator: of the random numbers.

    Returns images (B, 3, SIZE, SIZE) float32, normalised, parts (B, SIZE, SIZE), people and layout.
    """
    images, parts, people, layout = (part[chosen] for part in examples)
    count, room = len(chosen), DRAWN - SIZE
    left, top = torch.randint(room + 1, (2, count), generator=generator)
    rows, columns = top[:, None] + torch.arange(SIZE), left[:, None] + torch.arange(SIZE)
    flipped = torch.rand(count, generator=generator) < 0.5
    columns[flipped] = columns[flipped].flip(1)
    each = torch.arange(count)[:, None, None]
    images, parts = images[each, rows[:, :, None], columns[:, None]], parts[each, rows[:, :, None], columns[:, None]]
    layout = layout.clone()
    layout[:, 0:POSE_SIZE:2] = (layout[:, 0:POSE_SIZE:2] * DRAWN - left[:, None]) / SIZE
    layout[:, [*range(1, POSE_SIZE, 2), POSE_SIZE]] = (
        layout[:, [*range(1, POSE_SIZE, 2), POSE_SIZE]] * DRAWN - top[:, None]
    ) / SIZE
    layout[flipped, 0:POSE_SIZE:2] = 1 - layout[flipped, 0:POSE_SIZE:2]
    return recoloured(images.permute(0, 3, 1, 2).float() / 255, generator), parts, people, layout


def recoloured(images, generator):
    """Scale the channels at random and sometimes permute them: (B, 3, H, W) in 0..1 -> normalised."""
    gain = 0.8 + 0.4 * torch.rand(len(images), 3, 1, 1, generator=generator)
    if torch.rand((), generator=generator) < 0.3:
        images = images[:, torch.randperm(3, generator=generator)]
    return ((images * gain).clamp(0, 1) - 0.5) / 0.5


def pretrain(options):
    """Draw the images, train the backbone and return it."""
    examples = draw_examples(options.data_seed, options.images)
    torch.manual_seed(options.seed)
    model, generator = Pretext(), torch.Generator().manual_seed(options.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=options.lr
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, total_steps=options.steps + 1, pct_start=0.08)
    order = torch.empty(0, dtype=torch.long)
    bar = tqdm(range(options.steps), "training", disable=None)
    for step in bar:
        if len(order) < options.batch:
            order = torch.randperm(options.images, generator=generator)
        chosen, order = order[: options.batch], order[options.batch :]
        losses = model.losses(*batch_of(examples, chosen, generator))
        sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 50 == 0 or step == options.steps - 1:
            text = ", ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items())
            print(f"step {step}: {text}", flush=True)
    return model.backbone.eval()


def save(backbone, folder):
    """Write the weights and config.json, which says how to build the network; return the SHA-256 of the weights."""
    with atomic(folder / "backbone.safetensors") as path:
        save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, path)
    digest = hashlib.sha256((folder / "backbone.safetensors").read_bytes()).hexdigest()
    config = {
        "timm_name": TIMM_NAME,
        "kwargs": ARCHITECTURE,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "sha256": digest,
    }
    with atomic(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    return digest


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("images")
    data.add_argument(
        "--images",
        type=int,
        default=20000,
        help="number of drawn images, which are used again in every epoch (default 20000)",
    )
    data.add_argument(
        "--data-seed",
        type=int,
        default=FIRST_DATA_SEED,
        help=f"seed of the drawn images, at least {FIRST_DATA_SEED} (default {FIRST_DATA_SEED})",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, default=3000, help="optimiser steps (default 3000)")
    training.add_argument("--batch", type=int, default=32, help="images per step (default 32)")
    training.add_argument("--lr", type=float, default=1e-3, help="highest learning rate of AdamW (default 0.001)")
    training.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation (default 0)")
    training.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; weights are reproducible for the same number only (default 1)",
    )
    parser.add_argument_group("output").add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for weights and config.json"
    )
    options = parser.parse_args(arguments)
    if options.data_seed < FIRST_DATA_SEED:
        parser.error(f"--data-seed {options.data_seed} belongs to the scenes of sports; give {FIRST_DATA_SEED} or more")
    if min(options.steps, options.batch, options.threads) < 1 or options.images < options.batch:
        parser.error("expected --steps, --batch and --threads of at least 1, and --images of at least --batch")
    return options


def main(arguments=None):
    options = parse_arguments(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()
    backbone = pretrain(options)
    digest = save(backbone, options.out)
    count = sum(p.numel() for p in backbone.parameters())
    seconds = time.perf_counter() - start
    print(f"{options.out / 'backbone.safetensors'}: {count} parameters, sha256 {digest}, {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
