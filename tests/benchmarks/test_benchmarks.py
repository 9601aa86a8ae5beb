"""The benchmarks run from end to end on the tiniest models, and what they compute is right where it can be known."""

import importlib.util
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from running import ROOT, command
from tiny import NAME
from torch.nn import functional as F

sys.path.append(str(ROOT / "benchmarks"))  # behind the packages, one of which is called explain, too

import candidates
import dora
import libragrad
import memory
import methods
import peers
import perturbation
import throughput
import timing

from explain import METHODS, relevance
from explain.methods import FUNCTIONS
from explain.targets import class_weights, explained_value, head_rows
from explain.trace import Network

CPU = torch.device("cpu")
TINY = ["--model", NAME, "--batch", 2, "--targets", 2, "--rounds", 1]


def loaded(name: str):
    """A benchmark that is called like another module, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def explain():
    return loaded("explain")


@pytest.fixture(scope="module")
def training():
    return loaded("train")


class Ticks:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float):
        def call():
            self.now += seconds

        return call


# ---- the commands


def test_explain_writes_every_part(explain, monkeypatch, tmp_path, colours):
    def missing(model, images):
        raise ModuleNotFoundError(name="captum")

    monkeypatch.setattr(explain, "PEERS", [peers.Peer("theirs", "captum", "captum", "gradcam", missing, "all")])
    monkeypatch.setattr(explain.memory, "memory", lambda name, seed, device: f"| peak of {name} |\n")
    out = tmp_path / "benchmark.md"
    assert (
        command(
            explain,
            *TINY,
            "--methods",
            "lrp_depth",
            "gradcam",
            "--memory",
            "--precision",
            colours,
            "--throughput",
            "--largest",
            2,
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert (
        f"    python benchmarks/explain.py --model {NAME} --batch 2 --targets 2 --methods lrp_depth gradcam --rounds 1 "
        f"--memory --precision PHOTOS --throughput --largest 2 --out {out}\n"
    ) in text
    for part in (
        "one CPU thread",
        "\n## Time\n",
        "\n## Memory\n",
        "| peak of vit_base_patch16_224 |",
        "\n## float16\n",
        "\n## Throughput\n",
        "|  | precision | B = 1 | B = 2 |",
    ):
        assert part in text
    assert "- theirs, beside `gradcam`, was not measured: not installed: pip install captum\n" in text
    speeds = [
        line.split(" | ")[:2] for line in text[text.index("## Throughput") :].splitlines() if line.startswith("| ")
    ]
    assert speeds[2:] == [["| lrp_depth", "float32"], ["| lrp_depth", "float16"], ["| gradcam", "float32"]]


def test_explain_says_where_photos_are_missing(explain, tmp_path, capsys):
    assert command(explain, *TINY, "--methods", "random", "--precision", tmp_path) == 2
    assert f"--precision {tmp_path} holds 0 images; expected 16 or more" in capsys.readouterr().err


def test_methods_measures_a_run_and_continues(shop, tmp_path, monkeypatch):
    out, keep = tmp_path / "methods.md", tmp_path / "keep"
    argv = [
        shop.linear,
        "--images",
        4,
        "--rounds",
        1,
        "--methods",
        "lrp_depth",
        "--rounding-images",
        2,
        "--keep",
        keep,
        "--out",
        out,
    ]
    assert command(methods, *argv) == 0
    text = out.read_text()
    assert text.startswith(f"# Relevance methods, measured\n\n4 validation photos, {NAME} with linear (")
    head, _, *rows = (line for line in text.splitlines() if line.startswith("| "))
    assert [cell.strip() for cell in head.split("|")][2:4] == ["signed", "passes"]
    assert [row.split(" | ")[1] for row in rows] == ["no", "yes", "yes"] and rows[2].endswith(
        f"| {METHODS['lrp_depth'].source} |"
    )
    assert (
        f"RUN was trained by `python train.py --data PHOTOS --model {NAME} --weights FILE --method linear --seed 0 --out RUN`"
        in text
    )
    assert (
        text.count("median and worst of\n  4 photos x 2 classes") == 1
        and "median and worst of\n  2 photos x 2 classes" in text
    )
    for name in ("measure", "measure_noise", "measure_rounding"):
        monkeypatch.setattr(methods, name, None)  # all is kept
    assert command(methods, *argv) == 0
    monkeypatch.setattr(methods, "code", lambda *patterns: "changed")
    with pytest.raises(TypeError):  # what is measured again is measured by None
        command(methods, *argv)


def test_methods_takes_a_model_trained_elsewhere(weights, colours, tmp_path, capsys):
    argv = [
        NAME,
        "--weights",
        weights,
        "--images",
        2,
        "--rounds",
        1,
        "--methods",
        "rollout",
        "--keep",
        tmp_path / "keep",
    ]
    assert command(methods, *argv, "--data", colours, "--out", tmp_path / "m.md") == 0
    assert f"2 validation photos, {NAME}, 1000 classes." in (tmp_path / "m.md").read_text()
    assert command(methods, *argv) == 2
    assert "give the images to compare on as --data" in capsys.readouterr().err


def test_candidates_chooses_and_reports(shop, tmp_path, capsys):
    out = tmp_path / "candidates.md"
    assert (
        command(
            candidates,
            shop.linear,
            "--images",
            8,
            "--of-each-half",
            2,
            "--rounds",
            1,
            "--candidates",
            "lrp_depth",
            "LibraGrad FullGrad+",
            "--against",
            "lrp_contrast",
            "--fresh",
            3,
            "--keep",
            tmp_path / "keep",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert (
        "## Confirmed on 3 photos that are in neither half" in text
        and "| candidate | passes | SRG | lrp_blend less this |" in text
    )
    assert re.search(r"- (more|less) faithful than: .*lrp_depth \(|- not told apart from: .*lrp_depth \(", text)
    one, other = (
        methods.Photos(candidates.build_parser().parse_args([str(shop.linear), "--images", "8"]), fresh)
        for fresh in (None, 99)
    )
    assert (len(one.images), len(other.images)) == (8, 10)
    assert not any(torch.equal(a, b) for a in one.images for b in other.images)
    assert (
        command(candidates, shop.linear, "--images", 18, "--candidates", "lrp_depth", "--keep", tmp_path / "keep") == 2
    )
    assert "leaves no photo of 18 to confirm anything on; give fewer, or --fresh 0" in capsys.readouterr().err
    assert (
        '    python benchmarks/candidates.py RUN --images 8 --candidates lrp_depth "LibraGrad FullGrad+" --against '
        "lrp_contrast --of-each-half 2 --fresh 3 --rounds 1 --out FILE\n"
    ) in text
    assert "## Chosen on 2 photos" in text and "## Reported on 2 others" in text
    assert text.count("| candidate | passes | SRG | less lrp_contrast |") == 2
    assert "- More faithful than lrp_contrast (" in text and "selectable by name" not in text


@pytest.mark.slow
def test_all_candidates(shop, tmp_path):
    out = tmp_path / "candidates.md"
    assert (
        command(
            candidates,
            shop.linear,
            "--images",
            4,
            "--fresh",
            2,
            "--rounds",
            1,
            "--keep",
            tmp_path / "keep",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert all(f"| {name} |" in text for name in candidates.CANDIDATES)
    assert (
        f"less {candidates.BAR} |" in text
        and "`lrp_blend`, `lrp_contrast` and `lrp_depth` are selectable by name." in text
    )


def test_perturbation_says_where_the_time_goes(tmp_path, colours, capsys):
    out = tmp_path / "perturbation.md"
    assert (
        command(
            perturbation,
            "--model",
            NAME,
            "--photos",
            colours,
            "--images",
            2,
            "--relevance",
            "rollout",
            "lrp_depth",
            "--steps",
            4,
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert (
        f"    python benchmarks/perturbation.py --model {NAME} --photos PHOTOS --images 2 --relevance rollout lrp_depth "
        f"--steps 4 --out FILE\n"
    ) in text
    assert "Removal sends 28 images through the model for each image, 14 a method." in text, "2 K (S - 1) + 2 each"
    stages = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert stages == [
        "reading images",
        "maps, rollout",
        "maps, lrp_depth",
        "drawing perturbed images",
        "their forward passes",
        "statistics",
        "all",
    ]
    assert "500 images x 2 runs x 2 methods: " in text and "extrapolated from 2 images, linearly" in text


def test_perturbation_counts_each_second_once(monkeypatch):
    clock, images = Ticks(), torch.zeros(2, 3, 4, 4)

    class Model(torch.nn.Module):
        def forward(self, x):
            clock.now += 2.0 * len(x)
            return torch.zeros(len(x), 3)

    def curves(model, x, targets, maps, **options):
        model(torch.cat([x, x, x]))
        clock.now += 7.0
        return SimpleNamespace(srg=np.zeros(targets.shape))

    monkeypatch.setattr(perturbation, "photos", lambda *_: (clock.spend(10.0)(), images)[1])
    monkeypatch.setattr(perturbation, "relevance", lambda *_: clock.spend(5.0)())
    monkeypatch.setattr(perturbation, "perturbation_curves", curves)
    args = perturbation.build_parser().parse_args(["--photos", "x", "--images", "2", "--relevance", "rollout", "lrp"])
    spent, passes, unit = perturbation.measure(Model(), args, clock)
    assert spent == {
        "reading images": 5.0,
        "maps, rollout": 2.5,
        "maps, lrp": 2.5,
        "drawing perturbed images": 7.0,
        "their forward passes": 12.0,
        "statistics": 0.0,
    }
    assert (passes, unit) == (6.0, 2.0)


@pytest.mark.slow
def test_train_times_whole_processes(training, weights, colours, tmp_path):
    out = tmp_path / "training.md"
    assert (
        command(
            training,
            "--data",
            colours,
            "--model",
            NAME,
            "--weights",
            weights,
            "--epochs",
            2,
            "--dora-epochs",
            2,
            "--blocks",
            "4-5",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if row[0][:4] in ("plai", "trai")] == [
        "plain loop, 2 epochs",
        "train.py",
        "train.py, with the features kept from before",
        "plain loop, 2 epochs",
        "train.py, 2 epochs",
        "train.py, its own 3 epochs",
        "train.py, 2 epochs, with the tokens kept from before",
    ]
    assert all(float(row[1]) > 0 and float(row[4]) > 0.1 for row in rows if row[0][:4] in ("plai", "trai"))
    assert text.count("\nM") == 2 and text.count("- linear probe: 100.0 %, 100.0 %\n") == 1


def test_probe_solves_a_path_of_penalties(capsys):
    assert command(loaded("probe"), "--features", 200, "--classes", 5, "--widths", 16, 32) == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| 200")
    ]
    assert [row[:2] for row in rows] == [["200 x 16", "5"], ["200 x 32", "5"]]
    for _, _, seconds, penalties, iterations, accuracy in rows:
        assert float(seconds.strip("< ")) >= 0 and int(iterations) > int(penalties) > 3
        assert 20.0 < float(accuracy.removesuffix(" %")) <= 100.0, "better than chance"


def test_train_passes_on_what_a_process_ends_with(training, tmp_path, capsys):
    assert command(training, "--data", tmp_path / "nowhere", "--model", NAME) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "plain_loop.py" in error and "ended with status 1: FileNotFoundError" in error


# ---- what they compute


def test_training_is_counted_in_the_plain_loop(training):
    def run(seconds: float, accuracy: float, *epochs: tuple[float, float], fresh: bool = True):
        rows = [{"epoch": i + 1, "accuracy": a, "seconds": s} for i, (a, s) in enumerate(epochs)]
        return training.Finished(seconds, 2**30, rows, accuracy, fresh)

    runs = [
        ("plain", run(100, 0.8, (0.5, 40), (0.8, 70), (0.7, 100))),
        ("own", run(40, 0.81)),
        ("short", run(20, 0.8)),
        ("kept", run(10, 0.9, fresh=False)),
    ]
    assert "| own | 40 | 2.5 | 81.0 % | 1.00 |" in training.table(runs)
    assert training.mark(runs, 2.5).startswith("Met: ") and training.mark(runs, 2.6).startswith("Missed: ")
    said = "in epoch 2, after 70 s; `short` is there, and ends, after 20 s: 3.50 times as fast "
    assert training.to_same_accuracy(runs, 3.4).endswith(f"{said}(met: more than 3.4 is meant).")
    assert training.to_same_accuracy(runs).endswith(f"{said[:-1]}.")
    assert training.to_same_accuracy(runs, 3.5).endswith(f"{said}(missed: more than 3.5 is meant).")
    worse = [runs[0], ("own", run(40, 0.79))]
    assert training.mark(worse, 2.5).startswith("Missed: ") and training.to_same_accuracy(worse, 1.5).endswith(
        "ours does not reach it."
    )


def test_cost_counts_in_forward_passes_of_the_same_round():
    clock = Ticks()
    assert timing.cost(clock.spend(6.0), clock.spend(2.0), 3, clock) == 3.0
    assert timing.seconds(clock.spend(0.5), clock) == 0.5


def test_a_gpus_clock_waits_for_its_work(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    clock = timing.clock_of(torch.device("cuda"))
    assert timing.seconds(lambda: waited.append(False), clock) >= 0 and waited == [True, False, True]
    assert timing.clock_of(CPU) is timing.time.process_time


def test_throughput_is_measured_on_any_device():
    model = timm.create_model(NAME).eval()
    point = throughput.measured(
        throughput.explanation(model, "lrp_depth", "float16", 2, 2, CPU), 2, 2, 1, CPU, timing.clock_of(CPU)
    )
    assert point.batch == 2 and point.rate > 0 and point.peak is None and throughput.cell(point).endswith(" (–)")


@pytest.mark.parametrize(
    "seconds, batches",
    [
        (lambda batch: 1.0, [1, 2, 4, 8, 16]),  # until memory is full
        (lambda batch: max(1.0, batch / 4), [1, 2, 4, 8, 16]),  # no gain beyond 4: two doublings show it
        (lambda batch: float(batch), [1, 2, 4]),  # no gain at all
    ],
)
def test_the_sweep_ends_where_memory_or_the_gain_does(seconds, batches):
    clock = Ticks()

    def prepare(batch):
        if batch > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clock.spend(seconds(batch))

    points = throughput.sweep(prepare, 2, 3, CPU, clock)
    assert [point.batch for point in points] == batches
    assert [point.rate for point in points] == [pytest.approx(2 * batch / seconds(batch)) for batch in batches]
    assert [point.batch for point in throughput.sweep(prepare, 2, 3, CPU, clock, largest=2)] == [1, 2]


def test_a_batch_that_does_not_fit_is_not_measured_by_halves(monkeypatch):
    model, whole = timm.create_model(NAME).eval(), FUNCTIONS["rollout"]

    def full_beyond_two(network, images, targets):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(network, images, targets)

    monkeypatch.setitem(FUNCTIONS, "rollout", full_beyond_two)
    points = throughput.sweep(
        lambda batch: throughput.explanation(model, "rollout", None, batch, 1, CPU), 1, 1, CPU, timing.clock_of(CPU)
    )
    assert [point.batch for point in points] == [1, 2]


def test_other_errors_end_a_sweep_as_errors():
    def prepare(batch):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        throughput.sweep(prepare, 2, 1, CPU, Ticks())


def test_peak_memory_is_the_most_that_was_ever_held():
    before = memory.process_peak()
    size = torch.ones(2**26).nbytes  # 256 MiB, forgotten at once
    assert memory.process_peak() >= max(before, size) and memory.process_peak() < 64 * 2**30
    assert size < memory.peak_memory(NAME, "gradcam", 3, 2, 0) * 2**30


def test_batches_for_memory_come_one_by_one():
    model = timm.create_model(NAME)
    sizes = [(tuple(images.shape), tuple(targets.shape)) for images, targets in memory.batches(model, 19, 2)]
    assert sizes == [((count, 3, 160, 160), (count, 2)) for count in (8, 8, 3)]


@pytest.mark.slow
def test_each_peak_is_of_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "TARGETS", (2,))
    monkeypatch.setattr(memory, "MEASURED", ())
    table = memory.memory(NAME, 0, CPU)
    assert table.startswith("|  | images | K = 2 |\n") and "| lrp_depth | 32 | " in table


@pytest.mark.parametrize(
    "error, words",
    [
        (ModuleNotFoundError(name="lxt"), "not installed: pip install lxt 'transformers<5'"),
        (
            ModuleNotFoundError(name="transformers.x"),
            "installed, but transformers.x is not: pip install lxt 'transformers<5'",
        ),
        (ImportError("no name y"), "installed, but does not import here (no name y): pip install lxt 'transformers<5'"),
    ],
)
def test_a_missing_package_is_named_with_its_cure(error, words):
    def prepare(model, images):
        raise error

    assert peers.prepared(replace(peers.PEERS[-1], prepare=prepare), None, None) == words


@pytest.mark.parametrize(
    "changes", [{}, {"init_values": 0.3}, {"global_pool": "avg", "fc_norm": False}, {"qkv_bias": False}]
)
@pytest.mark.parametrize("contrast", ["none", "softmax"])
def test_libragrad_accounts_for_the_whole_logit(changes, contrast):
    """Tokens of any block, the biases above them and the head's own add up to what is explained."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=5, **changes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network, images = Network(model), torch.randn(2, 3, 160, 160, dtype=torch.float64)
        targets = torch.tensor([[0, 3], [4, 2]])
        record = network.record(images)
        weights = class_weights(record.logits, targets, contrast)
        at_blocks, biases = libragrad.contributions(network, record, head_rows(network, weights))
        total = at_blocks[0].sum(-1) + biases.sum(-1) + weights @ model.head.bias
        maps = libragrad.fullgrad(network, images, targets, contrast, plus=True)
    assert torch.allclose(total, explained_value(record.logits, weights), rtol=1e-10)
    mean = torch.stack([tokens[..., -100:] for tokens in at_blocks]).mean(0).unflatten(-1, (10, 10))
    assert torch.allclose(
        mean, relevance(model, images, targets, "lrp_depth", gamma=0.0, contrast=contrast), atol=1e-12
    )
    assert torch.allclose(maps, len(at_blocks) * mean + biases[..., -100:].unflatten(-1, (10, 10)), atol=1e-12)


@pytest.mark.slow
def test_memory_grows_with_the_batch_alone_and_a_base_model_fits_in_4_gb():
    """Of ViT-B/16, eight images at once: neither with the number of images, nor with K beyond the K maps' own
    tensors."""

    def peak(method: str, images: int, targets: int) -> float:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(memory.peak_memory, memory.MODEL, method, images, targets, 0).result()

    one = peak("lrp_depth", 8, 2)
    assert max(one, peak("lrp", 8, 2)) < 4e9 / 2**30
    assert peak("lrp_depth", 24, 2) < one + 0.1 and peak("lrp_depth", 8, 10) < one + 0.3


def test_dora_says_where_the_time_goes(tmp_path):
    """What is kept for backward is no time, and so is the same in every run: peft's DoRA holds on to more than ours."""
    assert command(dora, "--model", NAME, "--batch", 2, "--rounds", 1, "--out", tmp_path / "dora.md") == 0
    text = (tmp_path / "dora.md").read_text()
    times, parts = (
        re.findall(rf"^\| {name}\b.*", text, re.M)
        for name in ("(?:LoRA|DoRA)", "(?:matrix|attention|elementwise|everything)")
    )
    kept = [float(row.split(" | ")[-1].rstrip(" |")) for row in times]
    assert len(times) == 3 and len(parts) == 4 and kept[1] > kept[2] >= kept[0] > 0


# ---- other packages


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_another_package_explains_the_same_classes_of_the_same_images(peer):
    pytest.importorskip(peer.module, reason=f"not installed: {peer.install}")
    torch.manual_seed(0)
    model = timm.create_model(NAME, img_size=32, num_classes=5).eval().requires_grad_(False)
    images, targets = torch.randn(3, 3, 32, 32), torch.randint(0, 5, (3, 2))
    explain = peers.prepared(peer, model, images)
    assert callable(explain), explain
    found = [torch.as_tensor(one).detach() for one in explain(targets)]
    assert len(found) == 2 and all(len(one) == 3 and one.isfinite().all() and one.abs().sum() > 0 for one in found)
    if peer.module == "captum":  # what theirs says of a patch's pixels is what ours says of the patch
        patches = torch.stack([F.avg_pool2d(one.sum(1), 16) * 256 for one in found], dim=1)
        ours = relevance(model, images, targets, peer.ours)
        assert torch.allclose(patches, ours, rtol=1e-3, atol=1e-4 * ours.abs().max())


def test_the_docs_have_a_row_for_every_method_and_its_cost():
    """The cost of a map in METHODS and --help is what docs/results/benchmark.md measured at K = 2, to a tenth of it."""
    benchmark, measured, table = (
        (ROOT / "docs" / name).read_text() for name in ("results/benchmark.md", "results/methods.md", "comparing.md")
    )
    costs = {
        name: float(cells.split(" | ")[1])
        for name, cells in re.findall(r"^\| (\w+) \| (.*) \|$", benchmark[: benchmark.index("## Memory")], re.M)
    }
    assert costs.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert f"\n| `{name}` | {'yes' if method.signed else 'no'} | " in measured and f"| `{name}` |" in table, name
        assert method.passes == pytest.approx(costs[name], rel=0.1, abs=0.1), name
