"""What a model predicts for images, by one process or several."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.training.process_group import ALONE, Share
from models.training.sampling import Batches, deal


@dataclass(frozen=True)
class Predictions:
    """Per image, shape (N,): true class, predicted class (int64), probability of the true class, cross-entropy,
    probability of the predicted class, and how many classes are more probable than the true one (int64)."""

    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def predict(
    model: nn.Module, batches: Batches, device: torch.device, epoch: int = 1, share: Share = ALONE
) -> Predictions:
    """Evaluate a model in float32 without changing it but for its mode, which becomes evaluation.

    Every process takes every `count`-th batch, and all get all predictions, each image's once, in the order of
    `batches`.
    """
    model.eval()
    steps = batches.steps(epoch)
    mine = list(_columns(model, batches.make(deal(steps, share.rank, share.count), epoch), device))
    found = share.exchange(mine)
    ordered = [found[number % share.count][number // share.count] for number in range(len(steps))]
    return Predictions(*map(np.concatenate, zip(*ordered)))


@torch.no_grad()
def _columns(model: nn.Module, batches, device: torch.device) -> Iterator[tuple[np.ndarray, ...]]:
    for inputs, labels in batches:
        log_probability = F.log_softmax(model(inputs.to(device)).float(), dim=-1).cpu()
        true, (best, predicted) = log_probability.gather(1, labels[:, None])[:, 0], log_probability.max(1)
        rank = (log_probability > true[:, None]).sum(1)
        yield tuple(value.numpy() for value in (labels, predicted, true.exp(), -true, best.exp(), rank))
