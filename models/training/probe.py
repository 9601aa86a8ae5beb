"""The linear probe: softmax regression on features that lie in memory, by full-batch L-BFGS along a path of penalties.

The problem is convex, so that neither a learning rate nor a number of epochs nor a seed changes its solution: what is
left to choose is the penalty, and that is chosen on images held out of training, never on validation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.training.loop import Fit
from models.training.prediction import predict
from models.training.sampling import Batches

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(0, -13, -1))  # 1 to 1e-6, two a decade
MEMORY = 10  # pairs of steps that L-BFGS remembers
TOLERANCE = 1e-7  # of the gradient's largest entry and of the objective's change
WORSE = 3  # penalties in a row that do no better on held-out images end the path


@dataclass(frozen=True)
class ProbeRecipe:
    """penalties: weights of half the squared norm of the standardised features' weight matrix, largest first; the bias
    bears none. iterations: the most for each, of which warm starts leave most unused. balance: "weights" weighs losses
    by the inverse of their class's size."""

    penalties: tuple[float, ...] = PENALTIES
    iterations: int = 200
    label_smoothing: float = 0.1
    balance: str = "none"


def fit_probe(
    head: nn.Linear,
    inputs: Tensor,
    labels: Tensor,
    evaluations: dict[str, Batches],
    recipe: ProbeRecipe,
    device: torch.device,
    weights: Tensor | None = None,
    report: Callable[[dict], None] = lambda row: None,
) -> Fit:
    """Fit the head (C, D) to features (N, D) and labels (N,) for every penalty in turn; keep the best on `held_out`.

    Minimises the mean cross-entropy (with label smoothing; weights (C,): of each class's images) plus the penalty, on
    features standardised by their mean and deviation, each penalty starting where the one before ended. The best has
    the lowest loss on `held_out`: by accuracy, which a single image moves, the choice would say little about
    probabilities, and these are compared later. Returns a row a penalty; `chosen` counts them from 1.
    Source of the method: Liu, Nocedal, Mathematical Programming 45, 1989.
    """
    inputs, labels = inputs.to(device), labels.to(device)
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    standard = (inputs - mean) / deviation
    weights = None if weights is None else weights.to(device)
    head.to(device)
    weight, bias = (torch.zeros_like(p.detach()).requires_grad_(True) for p in (head.weight, head.bias))
    found, best, since = Fit(), None, 0
    for number, penalty in enumerate(sorted(recipe.penalties, reverse=True), start=1):
        iterations = _minimise(weight, bias, standard, labels, penalty, weights, recipe)
        _put(head, weight.detach() / deviation, bias.detach() - weight.detach() @ (mean / deviation))
        row = {"penalty": penalty, "iterations": iterations} | _train_figures(head, inputs, labels)
        for name, batches in evaluations.items():
            predictions = predict(head, batches, device)
            row |= {f"{name}_loss": float(predictions.loss.mean()), f"{name}_accuracy": predictions.accuracy}
        found.history.append(row)
        report(row)
        if best is None or row["held_out_loss"] < best[0]:
            best, since = (row["held_out_loss"], number, head.weight.detach().clone(), head.bias.detach().clone()), 0
        elif (since := since + 1) == WORSE:
            break
    _, found.chosen, *parameters = best
    _put(head, *parameters)
    return found


def _minimise(
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    labels: Tensor,
    penalty: float,
    weights: Tensor | None,
    recipe: ProbeRecipe,
) -> int:
    """Minimise in place; return the number of iterations."""
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
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels, weights, label_smoothing=recipe.label_smoothing)
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
