"""Predict the classes of images, with one process or several."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.training.process_group import SINGLE_PROCESS, ProcessGroup
from models.training.sampling import Batches


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images, each field of shape (N,).

    labels: true class, int64.
    predicted: most probable class, int64.
    probability: of the true class.
    loss: cross-entropy.
    confidence: probability of the predicted class.
    rank: number of classes that are more probable than the true one, int64.
    """

    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is classified correctly, bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly."""
        return float(self.correct.mean())


def predict(
    model: nn.Module, batches: Batches, device: torch.device, epoch: int = 1, group: ProcessGroup = SINGLE_PROCESS
) -> Predictions:
    """Return a model's predictions in float32, in the order of `batches`; the model is put into evaluation mode.

    model: inputs (B, ...) -> logits (B, C).
    batches: the images.
    device: where the model is.
    epoch: passed on to `batches`.
    group: processes that share the batches; all get all predictions.
    """
    model.eval()
    steps = batches.steps(epoch)
    mine = list(_columns(model, batches.make(steps[group.rank :: group.count], epoch), device))
    found = group.all_gather(mine)
    ordered = [found[number % group.count][number // group.count] for number in range(len(steps))]
    return Predictions(*map(np.concatenate, zip(*ordered)))


@torch.no_grad()
def _columns(model: nn.Module, batches, device: torch.device) -> Iterator[tuple[np.ndarray, ...]]:
    for inputs, labels in batches:
        log_probability = F.log_softmax(model(inputs.to(device)).float(), dim=-1).cpu()
        true, (best, predicted) = log_probability.gather(1, labels[:, None])[:, 0], log_probability.max(1)
        rank = (log_probability > true[:, None]).sum(1)
        yield tuple(value.numpy() for value in (labels, predicted, true.exp(), -true, best.exp(), rank))
