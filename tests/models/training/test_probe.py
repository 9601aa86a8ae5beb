"""The probe is the solution of a convex problem, its penalty chosen on held-out features alone."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from models.training.prediction import predict
from models.training.probe import fit_probe
from models.training.recipe import PENALTIES, ProbeRecipe
from models.training.sampling import feature_batches

CPU = torch.device("cpu")
RECIPE = ProbeRecipe()


def features(count: int, seed: int, noise: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds in five dimensions of very different scale and place."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    points = torch.eye(3, 5)[labels] * 3 + noise * torch.randn(count, 5, generator=generator)
    return points * torch.tensor([1.0, 10.0, 0.1, 1.0, 100.0]) + torch.tensor([0.0, 50.0, 0.0, -3.0, 0.0]), labels


def probe(recipe=RECIPE, train=(200, 0), held_out=(120, 1), seed=0, **options):
    torch.manual_seed(seed)
    head = nn.Linear(5, 3)
    evaluations = {"held_out": feature_batches(*features(*held_out), 64), "val": feature_batches(*features(120, 2), 64)}
    return head, fit_probe(head, *features(*train), evaluations, recipe, CPU, **options)


def objective(
    flat: np.ndarray, inputs: np.ndarray, labels: np.ndarray, penalty: float, smoothing: float, weights
) -> float:
    """The problem as it is written, in loops over images."""
    weight, bias = flat[:15].reshape(3, 5), flat[15:]
    total = scale = 0.0
    for x, y in zip(inputs, labels):
        logits = weight @ x + bias
        log_probability = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        share = np.full(3, smoothing / 3)
        share[y] += 1 - smoothing
        total -= sum(w * s * p for w, s, p in zip(weights, share, log_probability))
        scale += weights[y]
    return total / scale + penalty / 2 * (weight**2).sum()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.5)])
def test_the_probe_solves_the_problem_as_it_is_written(weights):
    recipe = ProbeRecipe(penalties=(0.01,), label_smoothing=0.1)
    head, _ = probe(recipe, train=(40, 0), class_weights=torch.tensor(weights))
    inputs, labels = features(40, 0)
    standard = ((inputs - inputs.mean(0)) / inputs.std(0)).double().numpy()
    arguments = standard, labels.numpy(), 0.01, 0.1, weights
    best = minimize(objective, np.zeros(18), arguments, method="L-BFGS-B", options={"maxiter": 500}).fun
    weight = (head.weight.detach() * inputs.std(0)).double()
    bias = (head.bias.detach() + head.weight.detach() @ inputs.mean(0)).double()
    own = objective(np.concatenate([weight.flatten().numpy(), bias.numpy()]), *arguments)
    assert own == pytest.approx(best, abs=1e-5)


def test_neither_seed_nor_start_matters():
    (first, found), (second, other) = probe(seed=0), probe(seed=7)
    assert torch.equal(first.weight, second.weight) and found == other


def test_the_penalty_is_chosen_by_the_loss_on_held_out_features_and_the_head_holds_its_solution():
    head, found = probe()
    losses = [row["held_out_loss"] for row in found.history]
    assert found.chosen == 1 + int(np.argmin(losses)) and 1 < found.chosen < len(PENALTIES), "neither end of the path"
    assert len(found.history) == min(found.chosen + 3, len(PENALTIES)), "three that do no better end it"
    assert [row["penalty"] for row in found.history] == list(PENALTIES[: len(found.history)])
    predictions = predict(head, feature_batches(*features(120, 2), 64), CPU)
    row = found.history[found.chosen - 1]
    assert (
        float(predictions.loss.mean()) == pytest.approx(row["val_loss"]) and predictions.accuracy == row["val_accuracy"]
    )


def test_validation_does_not_choose():
    first = probe()[1].chosen
    head = nn.Linear(5, 3)
    inputs, labels = features(120, 2)
    evaluations = {
        "held_out": feature_batches(*features(120, 1), 64),
        "val": feature_batches(inputs, (labels + 1) % 3, 64),
    }
    assert fit_probe(head, *features(200, 0), evaluations, ProbeRecipe(), CPU).chosen == first


def test_a_feature_that_never_varies_does_no_harm():
    inputs, labels = features(60, 0)
    inputs[:, 2] = 7.0
    head, evaluations = nn.Linear(5, 3), {"held_out": feature_batches(*features(30, 1), 64)}
    fit_probe(head, inputs, labels, evaluations, ProbeRecipe(penalties=(0.1, 0.01)), CPU)
    assert head.weight.isfinite().all() and head.bias.isfinite().all()
