"""The linear probe: softmax regression on features in memory, by full-batch L-BFGS along a path of L2 penalties.

The problem is convex, so its solution depends neither on a learning rate nor on a number of epochs nor on a seed. Only
the penalty is chosen, on images held out of training, never on validation.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.training.fit_result import NO_CALLBACKS, Callbacks, FitResult
from models.training.prediction import predict
from models.training.recipe import ProbeRecipe
from models.training.sampling import Batches

MEMORY = 10  # pairs of steps that L-BFGS keeps
TOLERANCE = 1e-7  # of the gradient's largest entry and of the objective's change
WORSE = 3  # penalties in a row without a lower held-out loss that end the path


def fit_probe(
    head: nn.Linear,
    inputs: Tensor,
    labels: Tensor,
    evaluations: dict[str, Batches],
    recipe: ProbeRecipe,
    device: torch.device,
    class_weights: Tensor | None = None,
    callbacks: Callbacks = NO_CALLBACKS,
) -> FitResult:
    """Fit the head for every penalty in turn, and keep the one with the lowest loss on `held_out`.

    Minimises the mean cross-entropy with label smoothing plus the penalty, on features standardised by their mean and
    standard deviation; each penalty starts from the solution of the one before. The choice is by loss and not by
    accuracy, because probabilities are compared later, and because a single image changes an accuracy.

    head: the classifier (C, D), which holds the solution of each penalty when it is reported, and finally the chosen.
    inputs: training features (N, D).
    labels: their classes (N,).
    evaluations: "held_out", on which the penalty is chosen, and others that are only reported.
    recipe: the penalties and the optimisation.
    device: where to fit.
    class_weights: weight (C,) of each class's losses; None weighs all alike.
    callbacks: `report` is called with the row of each penalty.
    Returns a row per penalty.
    Source: Liu, Nocedal, "On the limited memory BFGS method", Mathematical Programming 45, 1989.
    """
    inputs, labels = inputs.to(device), labels.to(device)
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    standard = (inputs - mean) / deviation
    class_weights = None if class_weights is None else class_weights.to(device)
    head.to(device)
    weight, bias = (torch.zeros_like(p.detach()).requires_grad_(True) for p in (head.weight, head.bias))
    found, lowest, since = FitResult(), math.inf, 0
    best = head.weight.detach(), head.bias.detach()
    for number, penalty in enumerate(sorted(recipe.penalties, reverse=True), start=1):
        iterations = _minimise(weight, bias, standard, labels, penalty, class_weights, recipe)
        _put(head, weight.detach() / deviation, bias.detach() - weight.detach() @ (mean / deviation))
        row = {"penalty": penalty, "iterations": iterations} | _train_figures(head, inputs, labels)
        for name, batches in evaluations.items():
            predictions = predict(head, batches, device)
            row |= {f"{name}_loss": float(predictions.loss.mean()), f"{name}_accuracy": predictions.accuracy}
        found.history.append(row)
        callbacks.report(row)
        if number == 1 or row["held_out_loss"] < lowest:
            lowest, found.chosen, since = row["held_out_loss"], number, 0
            best = head.weight.detach().clone(), head.bias.detach().clone()
        elif (since := since + 1) == WORSE:
            break
    _put(head, *best)
    return found


def _minimise(
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    labels: Tensor,
    penalty: float,
    class_weights: Tensor | None,
    recipe: ProbeRecipe,
) -> int:
    """Minimise the objective in place, starting from `weight` and `bias`; return the number of iterations."""
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=recipe.iterations,
        history_size=MEMORY,
        tolerance_grad=TOLERANCE,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(
            F.linear(inputs, weight, bias), labels, class_weights, label_smoothing=recipe.label_smoothing
        )
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return optimizer.state[weight]["n_iter"]


@torch.no_grad()
def _put(head: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    head.weight.copy_(weight)
    head.bias.copy_(bias)


@torch.no_grad()
def _train_figures(head: nn.Linear, inputs: Tensor, labels: Tensor) -> dict:
    logits = head(inputs)
    return {
        "train_loss": F.cross_entropy(logits, labels).item(),
        "train_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
