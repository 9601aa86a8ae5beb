"""A fit learns, keeps its best epoch, and continues after an interruption as if there had been none."""

import io
import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import same_state
from torch import nn
from tqdm import tqdm

from common.errors import ExplainedError
from models.training import steps as steps_module
from models.training.fit_result import Callbacks
from models.training.loop import fit
from models.training.prediction import predict
from models.training.process_group import ProcessGroup
from models.training.recipe import SAVE_EVERY, Checkpointing, Recipe
from models.training.sampling import feature_batches

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=6, batch_size=8, learning_rate=0.05, weight_decay=0.01, warmup=0.1, label_smoothing=0.0)


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds that a line separates."""
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * 0.3
    return noise + (labels * 2.0 - 1)[:, None], labels


@pytest.fixture
def batches():
    return {
        "train": feature_batches(*points(64, 0), batch_size=8, seed=3),
        "held_out": feature_batches(*points(20, 1), 20),
        "val": feature_batches(*points(20, 2), 20),
    }


def new_model() -> nn.Module:
    """A model with dropout, so that randomness has to be continued too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def run(model, batches, recipe=RECIPE, resume=None, save_every=SAVE_EVERY, calls=(), **options):
    """Fit a model of two classes. calls: fields of Callbacks; options: of `fit`."""
    evaluations = {name: b for name, b in batches.items() if name != "train"}
    options |= {"checkpointing": Checkpointing(resume, save_every), "callbacks": Callbacks(**dict(calls))}
    return fit(model, batches["train"], evaluations, recipe, CPU, class_count=2, **options)


# Learning


def test_a_separable_problem_is_learned(batches):
    model = new_model()
    found = run(model, batches)
    assert [row["epoch"] for row in found.history] == list(range(1, 7))
    last = found.history[-1]
    assert last["train_loss"] < found.history[0]["train_loss"] / 2
    assert predict(model, batches["val"], CPU).accuracy == 1.0 == last["val_accuracy"]


def test_predictions_agree_with_the_models_own_probabilities(batches):
    model, (inputs, labels) = new_model(), points(20, 2)
    found = predict(model, batches["val"], CPU)
    probability = model.eval()(inputs).softmax(1).detach()
    assert np.allclose(found.probability, probability[torch.arange(20), labels], atol=1e-6)
    assert np.allclose(found.loss, -np.log(found.probability), atol=1e-5)
    assert (found.predicted == probability.argmax(1).numpy()).all() and (found.labels == labels.numpy()).all()
    assert np.allclose(found.confidence, probability.max(1).values)


def test_the_rank_is_how_many_classes_are_more_probable():
    probability = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.3, 0.3, 0.2, 0.2]])
    found = predict(nn.Identity(), feature_batches(probability.log(), torch.tensor([1, 0, 3]), 2), CPU)
    assert found.rank.tolist() == [2, 0, 2] and np.allclose(found.confidence, [0.4, 0.7, 0.3])


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_predict_every_image_once_and_in_order(count):
    """Threads in the place of processes: 11 images in 4 batches, so that some have more than others."""
    inputs, labels = points(11, 0)
    model, meeting, said, seen = (
        new_model().eval(),
        threading.Barrier(count, timeout=60),
        [None] * count,
        [[] for _ in range(count)],
    )
    batches = feature_batches(inputs, labels, 3)

    def all_gather(rank: int, value):
        said[rank] = value
        meeting.wait()
        found = list(said)
        meeting.wait()
        return found

    def one(rank: int):
        mine = replace(batches, make=lambda steps, epoch: (seen[rank].extend(steps), batches.make(steps, epoch))[1])
        return predict(model, mine, CPU, group=ProcessGroup(rank, count, partial(all_gather, rank)))

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(one, range(count)))
    expected = predict(model, batches, CPU)
    assert sorted(sum(sum(seen, []), [])) == list(range(11)) and all(seen), "each image by one, and none without work"
    for predictions in found:
        assert all(
            np.array_equal(getattr(predictions, field.name), getattr(expected, field.name))
            for field in fields(expected)
        )


def test_what_is_frozen_stays(batches):
    model = new_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(model, batches)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("swapped, best, chosen", [(0, 6, 6), (10, 2, 6), (20, 1, 2)])
def test_the_last_epoch_is_kept_unless_an_earlier_one_is_clearly_more_accurate(batches, swapped, best, chosen):
    """On swapped labels accuracy falls while training goes on: on half of them hardly, on all of them from 0.5 to 0."""
    inputs, labels = points(20, 1)
    labels[:swapped] = 1 - labels[:swapped]
    batches["held_out"] = feature_batches(inputs, labels, 20)
    model, weights, right = new_model(), [], []

    def report(row):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        right.append(predict(model, batches["held_out"], CPU).correct.astype(float))

    found = run(model, batches, replace(RECIPE, learning_rate=0.002), calls={"report": report})
    scores = [(row["held_out_accuracy"], -row["held_out_loss"]) for row in found.history]
    most = right[scores.index(max(scores))]
    near = []
    for number, one in enumerate(right, start=1):
        lost, gained = int((most > one).sum()), int((most < one).sum())
        chance = sum(math.comb(lost + gained, k) for k in range(lost, lost + gained + 1)) / 2.0 ** (lost + gained)
        near += [number] * (2 * chance >= 0.05 or lost <= gained)
    assert scores.index(max(scores)) == best - 1 and found.chosen == near[-1] == chosen
    assert same_state(model.state_dict(), weights[chosen - 1])


def test_a_resumed_fit_knows_which_held_out_images_were_right(batches, tmp_path):
    inputs, labels = points(20, 1)
    batches["held_out"] = feature_batches(inputs, 1 - labels, 20)
    recipe, whole, model, path = (
        replace(RECIPE, learning_rate=0.002),
        new_model(),
        new_model(),
        tmp_path / "resume.safetensors",
    )
    expected = run(whole, batches, recipe)
    with pytest.raises(KeyboardInterrupt):
        run(new_model(), batches, recipe, resume=path, calls={"report": Stop(1)})
    assert run(model, batches, recipe, resume=path).chosen == expected.chosen == 2
    assert same_state(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize("split", ["held_out", "val"])
def test_an_epoch_that_predicts_nothing_finite_ends_the_fit_and_nothing_of_it_is_kept(batches, tmp_path, split):
    path, make = tmp_path / "resume.safetensors", batches[split].make

    def poisoned(steps, epoch):
        for inputs, labels in make(steps, epoch):
            yield (inputs * float("nan") if epoch == 3 else inputs), labels

    with pytest.raises(
        ExplainedError, match=f"{split}_loss became nan after epoch 3; the last good state is in {path}"
    ):
        run(new_model(), batches | {split: replace(batches[split], make=poisoned)}, resume=path)
    whole, model, rows = new_model(), new_model(), []
    assert run(model, batches, resume=path, calls={"report": rows.append}) == run(whole, batches)
    assert same_state(model.state_dict(), whole.state_dict()) and [row["epoch"] for row in rows] == [3, 4, 5, 6]


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
        run(new_model(), batches, seed=5, resume=tmp_path / "resume.safetensors", calls={"report": Stop(epoch)})
    torch.rand(3)  # the second process has another past
    model, rows = new_model(), []
    found = run(model, batches, seed=5, resume=tmp_path / "resume.safetensors", calls={"report": rows.append})
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


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "clip": 0.5}, {"accumulate": 3}, {"mixup": 0.4}])
@pytest.mark.parametrize("stop", [1, 12, 23, 47])
def test_a_fit_stopped_at_any_step_continues_to_the_same_bits(batches, tmp_path, stop, options):
    recipe = replace(RECIPE, label_smoothing=0.1, **options)
    whole = new_model()
    expected = run(whole, batches, recipe, seed=5)
    make, given = batches["train"].make, []

    def interrupted(steps, epoch):
        for batch in make(steps, epoch):
            given.append(batch)
            if len(given) == stop * recipe.accumulate:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(
            new_model(),
            batches | {"train": replace(batches["train"], make=interrupted)},
            recipe,
            seed=5,
            resume=tmp_path / "resume.safetensors",
            save_every=-1.0,
        )
    np.random.rand(3), torch.rand(3)  # the second process has another past
    model, rest = new_model(), []

    def counted(steps, epoch):
        rest.extend(steps)
        return make(steps, epoch)

    found = run(
        model,
        batches | {"train": replace(batches["train"], make=counted)},
        recipe,
        seed=5,
        resume=tmp_path / "resume.safetensors",
    )
    assert same_state(model.state_dict(), whole.state_dict()) and found == expected
    assert len(rest) == (6 * 8 - stop + 1) * recipe.accumulate, "no step is taken twice"


def test_accumulated_parts_are_one_step(batches):
    """Gradients of parts add up to those of the whole, uneven last parts included; dropout would draw otherwise."""
    heads = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        run(model, batches, replace(RECIPE, batch_size=8, accumulate=accumulate))
        heads.append(model.weight.detach())
    assert torch.allclose(*heads, atol=1e-5)


def test_patience_ends_a_fit_that_gets_no_better(batches):
    inputs, labels = points(20, 1)
    batches["held_out"] = feature_batches(inputs, 1 - labels, 20)
    found = run(new_model(), batches, replace(RECIPE, epochs=30, patience=2))
    scores = [(row["held_out_accuracy"], -row["held_out_loss"]) for row in found.history]
    assert len(scores) == scores.index(max(scores)) + 3 < 30 and found.chosen == len(scores) - 2


def test_the_running_mean_is_what_is_evaluated_and_kept(batches):
    """By hand, from the weights after every step."""
    model, values = nn.Linear(2, 2), []
    start = model.weight.detach().clone()
    step = torch.optim.AdamW.step
    try:
        torch.optim.AdamW.step = lambda self, *a, **k: (
            step(self, *a, **k),
            values.append(model.weight.detach().clone()),
        )[0]
        found = run(model, batches, replace(RECIPE, epochs=1, ema=0.7))
    finally:
        torch.optim.AdamW.step = step
    mean = start
    for taken, value in enumerate(values):
        decay = min(0.7, (1 + taken) / (10 + taken))
        mean = decay * mean + (1 - decay) * value
    assert torch.allclose(model.weight, mean, atol=1e-6) and not torch.allclose(model.weight, values[-1], atol=1e-4)
    assert float(predict(model, batches["val"], CPU).loss.mean()) == pytest.approx(found.history[-1]["val_loss"])


@pytest.mark.parametrize("weights, share", [(None, 0.5), ([1.0, 1.0], 0.5), ([1.0, 3.0], 0.75)])
def test_weights_of_classes_are_weights_of_losses(batches, weights, share):
    """Images that show nothing: what is left to learn is how much each class counts."""
    model, nothing = nn.Linear(2, 2), torch.zeros(64, 2)
    labels = torch.tensor([0, 1] * 2 if share == 0.5 else [0, 1, 1, 1])  # the share itself is best on these
    blind = batches | {
        "train": feature_batches(nothing, torch.arange(64) % 2, 8, seed=1),
        "held_out": feature_batches(nothing[:4], labels, 4),
    }
    run(model, blind, replace(RECIPE, epochs=20), class_weights=None if weights is None else torch.tensor(weights))
    found = predict(model, feature_batches(nothing[:1], torch.tensor([1]), 1), CPU)
    assert found.probability[0] == pytest.approx(share, abs=0.05)


def test_drawing_by_chance_draws_rare_images_as_often_as_their_chance_says():
    batches = replace(
        feature_batches(torch.zeros(1000, 1), torch.zeros(1000), 10, seed=1), chances=np.r_[[0.9], [0.1 / 999] * 999]
    )
    drawn = np.concatenate(batches.steps(1))
    assert len(drawn) == 1000 and 850 < (drawn == 0).sum() < 950 and (batches.steps(1) == batches.steps(1))
    assert batches.steps(1) != batches.steps(2)


def test_what_is_kept_for_resuming_is_no_pickle(batches, tmp_path):
    run(new_model(), batches, resume=tmp_path / "resume.safetensors")
    with safe_open(tmp_path / "resume.safetensors", framework="pt") as file:
        assert {key.split("/")[0] for key in file.keys()} == {"now", "best", "optimizer", "held_out"}
    assert [path.name for path in tmp_path.iterdir()] == ["resume.safetensors"]


def test_a_damaged_state_is_one_line(batches, tmp_path):
    (tmp_path / "resume.safetensors").write_bytes(b"half")
    with pytest.raises(ExplainedError, match="resume.safetensors.* cannot be continued from"):
        run(new_model(), batches, resume=tmp_path / "resume.safetensors")


def test_a_state_that_memory_has_no_room_for_is_not_called_damaged(batches, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run(new_model(), batches, resume=tmp_path / "resume.safetensors")
    monkeypatch.setattr("models.training.resume_state.safe_open", full)
    with pytest.raises(torch.OutOfMemoryError):
        run(new_model(), batches, resume=tmp_path / "resume.safetensors")


def test_a_loss_that_is_no_number_ends_the_fit_names_the_images_and_keeps_the_step_before(batches, tmp_path):
    make = batches["train"].make

    def poisoned(steps, epoch):
        for number, (inputs, labels) in enumerate(make(steps, epoch)):
            yield (inputs * float("nan") if (epoch, number) == (3, 5) else inputs), labels

    broken = batches | {"train": replace(batches["train"], make=poisoned, name="photo {}".format)}
    images = ", ".join(f"photo {i}" for i in batches["train"].steps(3)[5])
    with pytest.raises(
        ExplainedError, match=re.escape(f"loss became nan in epoch 3, step 6 (images: {images}); the last good state")
    ):
        run(new_model(), broken, resume=tmp_path / "resume.safetensors")
    with safe_open(tmp_path / "resume.safetensors", framework="pt") as file:
        position = json.loads(file.metadata()["fit"])["position"]
    assert (position["epoch"], position["step"]) == (3, 5)
    whole, model = new_model(), new_model()
    expected = run(whole, batches)
    assert run(model, batches, resume=tmp_path / "resume.safetensors") == expected, (
        "with the cause gone it goes on there"
    )
    assert same_state(model.state_dict(), whole.state_dict())


def test_a_gradient_that_is_no_number_ends_the_fit_before_it_reaches_a_weight(batches, tmp_path):
    """The loss is finite still; the step before is saved, and goes on where the cause is gone."""
    path, model, steps = tmp_path / "resume.safetensors", new_model(), []

    def poisoned(gradient):
        steps.append(1)
        return gradient * float("inf") if len(steps) == 13 else gradient

    model[0].weight.register_hook(poisoned)
    with pytest.raises(
        ExplainedError, match=re.escape("the gradient's norm became ") + r"(inf|nan) in epoch 2, step 5 \(images: "
    ):
        run(model, batches, resume=path)
    assert model[0].weight.isfinite().all()
    whole, again = new_model(), new_model()
    assert run(again, batches, resume=path) == run(whole, batches) and same_state(
        again.state_dict(), whole.state_dict()
    )


def test_gradients_that_half_precision_never_gets_right_end_the_fit(batches, monkeypatch):
    """Its scaler leaves out a step and halves its scale, 4, 2, 1: below that it is no scale that is wrong."""

    def scaled(precision, device):
        found = accelerator("no", device)
        found.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        return found

    accelerator, model, wrong = steps_module.accelerator, new_model(), []
    monkeypatch.setattr(steps_module, "accelerator", scaled)
    model[0].weight.register_hook(lambda gradient: gradient * float("inf") if wrong else gradient)
    run(model, batches, replace(RECIPE, epochs=1))
    wrong.append(True)
    with pytest.raises(ExplainedError, match="gradient's norm became .* in epoch 1, step 4 "):
        run(model, batches)


@pytest.mark.parametrize("save_every", [300, -1.0])
def test_a_state_of_weights_that_are_no_numbers_replaces_no_good_one(batches, tmp_path, save_every):
    """A step so large that weights overflow is seen by the next loss; what was saved before it stays."""
    path = tmp_path / "resume.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(new_model(), batches, resume=path, calls={"report": Stop(1)})
    good, step = path.read_bytes(), torch.optim.AdamW.step

    def overflowing(self, *args, **options):
        step(self, *args, **options)
        self.param_groups[0]["params"][0].fill_(float("inf"))

    try:
        torch.optim.AdamW.step = torch.no_grad()(overflowing)
        with pytest.raises(ExplainedError, match="loss became nan in epoch 2, step 2"):
            run(new_model(), batches, resume=path, save_every=save_every)
    finally:
        torch.optim.AdamW.step = step
    assert path.read_bytes() == good


def test_the_history_is_kept_whole_before_the_state_that_holds_it(batches, tmp_path):
    path, seen = tmp_path / "resume.safetensors", []

    def epochs_saved() -> int:
        if not path.is_file():
            return 0
        with safe_open(path, framework="pt") as file:
            return len(json.loads(file.metadata()["fit"])["history"])

    def keep(history: list[dict]) -> None:
        seen.append(([row["epoch"] for row in history], epochs_saved()))

    with pytest.raises(KeyboardInterrupt):
        run(new_model(), batches, resume=path, calls={"report": Stop(2), "keep": keep})
    run(new_model(), batches, resume=path, calls={"keep": keep})
    assert seen == [(list(range(1, epoch + 1)), epoch - 1) for epoch in range(1, 7)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_shows_loss_accuracy_images_a_second_and_time_left(batches, tmp_path, monkeypatch):
    shown, path = [Terminal(), Terminal()], tmp_path / "resume.safetensors"
    for terminal, stop in zip(shown, (Stop(2), lambda row: None)):
        monkeypatch.setattr(
            steps_module,
            "tqdm",
            lambda terminal=terminal, **options: tqdm(
                **options | {"file": terminal, "delay": 0, "mininterval": 0, "ncols": 150}
            ),
        )
        with suppress(KeyboardInterrupt):
            run(new_model(), batches, resume=path, calls={"report": stop, "progress": True})
    first, second = (
        re.findall(r"(\d+)/384 \[[\d:]+<([\d:?]+), *([\d.?]+)image/s(.*?)\]", terminal.getvalue()) for terminal in shown
    )
    assert [int(row[0]) for row in (first[0], first[-1], second[0], second[-1])] == [0, 128, 128, 384]
    done, left, rate, more = second[-2]
    assert ":" in left and float(rate) > 0
    assert re.fullmatch(r", accuracy=[01]\.\d{3}, epoch=6, loss=\d\.\d{3}", more)


def test_without_a_terminal_there_is_no_bar(batches, capsys):
    run(new_model(), batches, calls={"progress": True})
    assert capsys.readouterr().err == ""


# Optimisation


def test_rates_follow_the_schedule(batches, monkeypatch):
    """By its formula: 5 of 48 steps up, then a cosine; each group at its own rate."""
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a, **k: (rates.append([group["lr"] for group in self.param_groups]), step(self, *a, **k))[1],
    )
    run(new_model(), batches)
    expected = [(i + 1) / 5 if i < 5 else 0.5 * (1 + math.cos(math.pi * (i - 5) / 43)) for i in range(48)]
    assert np.allclose(rates, 0.05 * np.array(expected)[:, None]) and len(rates[0]) == 2


@pytest.fixture
def group():
    """A group of this process alone; what takes part in it as one of two gets its own gradients for the other's."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2])
def test_half_precision_is_for_training_alone(batches, group, processes):
    model, seen = new_model(), set()
    model[3].register_forward_hook(lambda module, _, output: seen.add((module.training, output.dtype)))
    both = ProcessGroup(0, processes, lambda value: [value] * processes)
    run(model, batches, replace(RECIPE, epochs=1, precision="bfloat16"), group=both)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}


def test_gradients_are_clipped_to_a_norm(batches):
    """AdamW's first step has one size whatever the gradient's; its memory of squares has not."""
    moved = []
    for clip in (0.0, 1e-3):
        found = []
        step, torch.optim.AdamW.step = (
            torch.optim.AdamW.step,
            lambda self, *a, found=found: found.append(
                max(float(p.grad.abs().max()) for group in self.param_groups for p in group["params"])
            ),
        )
        try:
            run(new_model(), batches, replace(RECIPE, epochs=1, clip=clip))
        finally:
            torch.optim.AdamW.step = step
        moved.append(max(found))
    assert moved[1] <= 1e-3 * 1.01 < moved[0]
