"""Mixup and cutmix whose random draws depend on a seed alone."""

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F

from models.training.recipe import Recipe


class Mixing:
    """timm's mixup and cutmix, drawn from a seed for each part of a batch; an odd image out stays as it is."""

    def __init__(self, recipe: Recipe, class_count: int) -> None:
        self.class_count, self.smoothing = class_count, recipe.label_smoothing
        self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=class_count)

    def __call__(self, inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed inputs (B, ...) and soft targets (B, C)."""
        even = len(inputs) // 2 * 2
        rest = F.one_hot(labels[even:], self.class_count) * (1 - self.smoothing) + self.smoothing / self.class_count
        if not even:
            return inputs, rest
        before = np.random.get_state()  # timm draws from numpy's global generator
        np.random.seed(seed % 2**32)
        try:
            mixed, targets = self.mixup(inputs[:even].clone(), labels[:even])
        finally:
            np.random.set_state(before)
        return torch.cat([mixed, inputs[even:]]), torch.cat([targets.to(inputs.device), rest])


def mixed_seed(*numbers: int) -> int:
    """Return one seed that depends on several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
