"""A fit learns, keeps its best epoch, and continues after an interruption as if there had been none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from errors import ExplainedError
from models.fit import Recipe, feature_batches, fit, predict
from tiny import same_state

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=6, batch_size=8, learning_rate=0.05, weight_decay=0.01, warmup=0.1, label_smoothing=0.0)


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds that a line separates."""
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * 0.3
    return noise + (labels * 2.0 - 1)[:, None], labels


@pytest.fixture
def batches():
    return {"train": feature_batches(*points(64, 0), batch_size=8, seed=3),
            "held_out": feature_batches(*points(20, 1), 20), "val": feature_batches(*points(20, 2), 20)}


def new_model() -> nn.Module:
    """A model with dropout, so that randomness has to be continued too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def run(model, batches, recipe=RECIPE, **options):
    evaluations = {name: b for name, b in batches.items() if name != "train"}
    return fit(model, batches["train"], evaluations, recipe, CPU, **options)


# Learning


def test_a_separable_problem_is_learned(batches):
    model = new_model()
    found = run(model, batches)
    assert [row["epoch"] for row in found.history] == list(range(1, 7))
    last = found.history[-1]
    assert last["train_loss"] < found.history[0]["train_loss"] / 2
    assert predict(model, batches["val"].epoch(0), CPU).accuracy == 1.0 == last["val_accuracy"]


def test_predictions_agree_with_the_models_own_probabilities(batches):
    model, (inputs, labels) = new_model(), points(20, 2)
    found = predict(model, batches["val"].epoch(0), CPU)
    probability = model.eval()(inputs).softmax(1).detach()
    assert np.allclose(found.probability, probability[torch.arange(20), labels], atol=1e-6)
    assert np.allclose(found.loss, -np.log(found.probability), atol=1e-5)
    assert (found.predicted == probability.argmax(1).numpy()).all() and (found.labels == labels.numpy()).all()


def test_what_is_frozen_stays(batches):
    model = new_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(model, batches)
    assert torch.equal(model[0].weight, before)


def test_the_chosen_epoch_is_the_best_on_the_held_out_images(batches):
    """A learning rate this large overshoots: accuracy on images of swapped labels falls while training goes on."""
    inputs, labels = points(20, 1)
    batches["held_out"] = feature_batches(inputs, 1 - labels, 20)
    model = new_model()
    weights = []
    found = run(model, batches, report=lambda row: weights.append({k: v.clone() for k, v in model.state_dict().items()}))
    scores = [(row["held_out_accuracy"], -row["held_out_loss"]) for row in found.history]
    best = scores.index(max(scores)) + 1
    assert found.chosen == best < 6
    assert same_state(model.state_dict(), weights[best - 1])


def test_validation_does_not_choose(batches):
    inputs, labels = points(20, 2)
    first = run(new_model(), batches).chosen
    batches["val"] = feature_batches(inputs, 1 - labels, 20)
    assert run(new_model(), batches).chosen == first


def test_the_order_of_batches_depends_on_seed_and_epoch():
    def order(seed, epoch):
        batches = feature_batches(torch.arange(10.0)[:, None], torch.arange(10), 4, seed=seed)
        assert len(batches) == 3
        return torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist()

    assert order(1, 1) == order(1, 1) and order(1, 1) != order(1, 2) and order(1, 1) != order(2, 1)
    assert sorted(order(1, 1)) == list(range(10)) == order(None, 5)


# Interruption


class Stop:
    """Raise KeyboardInterrupt once an epoch has been reported."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, row: dict) -> None:
        if row["epoch"] == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_an_interrupted_fit_continues_to_the_same_bits(batches, tmp_path, epoch, capsys):
    whole = new_model()
    expected = run(whole, batches, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run(new_model(), batches, seed=5, resume=tmp_path / "resume.safetensors", report=Stop(epoch))
    torch.rand(3)  # the second process has another past
    model, rows = new_model(), []
    found = run(model, batches, seed=5, resume=tmp_path / "resume.safetensors", report=rows.append)
    assert same_state(model.state_dict(), whole.state_dict()) and found == expected
    assert [row["epoch"] for row in rows] == list(range(epoch + 1, 7))
    assert f"continuing after epoch {epoch} of 6" in capsys.readouterr().out


def test_an_interruption_within_an_epoch_repeats_that_epoch(batches, tmp_path):
    whole = new_model()
    expected = run(whole, batches)
    make, count = batches["train"].make, []

    def interrupted(indices, epoch):
        for batch in make(indices, epoch):
            count.append(1)
            if len(count) == 21:  # the fifth batch of the third epoch
                raise KeyboardInterrupt
            yield batch

    broken = batches | {"train": type(batches["train"])(64, 8, interrupted, 3)}
    with pytest.raises(KeyboardInterrupt):
        run(new_model(), broken, resume=tmp_path / "resume.safetensors")
    model = new_model()
    found = run(model, batches, resume=tmp_path / "resume.safetensors")
    assert same_state(model.state_dict(), whole.state_dict()) and found == expected


def test_what_is_kept_for_resuming_is_no_pickle(batches, tmp_path):
    run(new_model(), batches, resume=tmp_path / "resume.safetensors")
    with safe_open(tmp_path / "resume.safetensors", framework="pt") as file:
        assert {key.split("/")[0] for key in file.keys()} == {"now", "best", "optimizer"}
    assert [path.name for path in tmp_path.iterdir()] == ["resume.safetensors"]


def test_a_damaged_state_is_one_line(batches, tmp_path):
    (tmp_path / "resume.safetensors").write_bytes(b"half")
    with pytest.raises(ExplainedError, match="resume.safetensors.* cannot be continued from"):
        run(new_model(), batches, resume=tmp_path / "resume.safetensors")


def test_a_loss_that_is_no_number_ends_the_fit_and_keeps_the_last_epoch(batches, tmp_path):
    make = batches["train"].make

    def poisoned(indices, epoch):
        for inputs, labels in make(indices, epoch):
            yield (inputs * float("nan") if epoch == 3 else inputs), labels

    broken = batches | {"train": type(batches["train"])(64, 8, poisoned, 3)}
    with pytest.raises(ExplainedError, match="nan in epoch 3, batch 0.*smaller --learning-rate"):
        run(new_model(), broken, resume=tmp_path / "resume.safetensors")
    with safe_open(tmp_path / "resume.safetensors", framework="pt") as file:
        assert '"steps": 16' in file.metadata()["fit"]


# Optimisation


def test_gradients_are_clipped_to_a_norm(batches):
    """AdamW's first step has one size whatever the gradient's; its memory of squares has not."""
    moved = []
    for clip in (0.0, 1e-3):
        found = []
        step, torch.optim.AdamW.step = torch.optim.AdamW.step, lambda self, *a: found.append(max(
            float(p.grad.abs().max()) for group in self.param_groups for p in group["params"]))
        try:
            run(new_model(), batches, replace(RECIPE, epochs=1, clip=clip))
        finally:
            torch.optim.AdamW.step = step
        moved.append(max(found))
    assert moved[1] <= 1e-3 * 1.01 < moved[0]
