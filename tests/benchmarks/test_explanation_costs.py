"""benchmarks/explain.py: the document has every part, and costs are right where a test knows them."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import memory
import peers
import pytest
import throughput
import timing
import timm
import torch
from benchmark_modules import Ticks, benchmark
from running import command
from tiny import NAME
from torch.nn import functional as F

from explain import relevance
from explain.methods import FUNCTIONS

CPU = torch.device("cpu")
TINY = ["--model", NAME, "--batch", 2, "--targets", 2, "--rounds", 1]


@pytest.fixture(scope="module")
def explain():
    return benchmark("explain")


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
