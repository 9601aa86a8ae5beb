"""benchmarks/methods.py, candidates.py and perturbation.py run from end to end on the tiniest models."""

import re
from types import SimpleNamespace

import candidates
import libragrad
import methods
import numpy as np
import per_photo
import perturbation
import photos
import pytest
import timm
import torch
from benchmark_modules import Ticks
from running import ROOT, command
from tiny import NAME

from explain import METHODS, relevance
from explain.contrasts import class_weights, explained_value, head_rows
from explain.trace import Network


def refuse(*args):
    raise AssertionError("measured again")


def test_methods_measures_a_run_and_continues(shop, tmp_path, monkeypatch):
    out, cache = tmp_path / "methods.md", tmp_path / "cache"
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
        "--cache",
        cache,
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
        f"RUN was trained by `python train.py --data PHOTOS --model {NAME} --weights FILE "
        "--method linear --seed 0 --out RUN`" in text
    )
    assert (
        text.count("median and maximum of\n  4 photos x 2 classes") == 1
        and "median and maximum of\n  2 photos x 2 classes" in text
    )
    for name in ("measure_maps", "measure_noise", "measure_rounding"):
        monkeypatch.setattr(methods, name, refuse)  # all is cached
    assert command(methods, *argv) == 0
    monkeypatch.setattr(methods, "code_hash", lambda *patterns: "changed")
    with pytest.raises(AssertionError, match="measured again"):
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
        "--cache",
        tmp_path / "cache",
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
            "--held-out",
            3,
            "--cache",
            tmp_path / "cache",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert (
        "## Confirmation on 3 held-out photos" in text and "| candidate | passes | SRG | lrp_blend minus this |" in text
    )
    assert re.search(r"- (more|less) faithful than: .*lrp_depth \(|- not distinguishable from: .*lrp_depth \(", text)
    one, other = (
        photos.load_photos(candidates.build_parser().parse_args([str(shop.linear), "--images", "8"]), held_out)
        for held_out in (None, 99)
    )
    assert (len(one.images), len(other.images)) == (8, 10)
    assert not any(torch.equal(a, b) for a in one.images for b in other.images)
    assert (
        command(candidates, shop.linear, "--images", 18, "--candidates", "lrp_depth", "--cache", tmp_path / "cache")
        == 2
    )
    assert "leaves no held-out photo of 18; give fewer, or --held-out 0" in capsys.readouterr().err
    assert (
        '    python benchmarks/candidates.py RUN --images 8 --candidates lrp_depth "LibraGrad FullGrad+" --against '
        "lrp_contrast --of-each-half 2 --held-out 3 --rounds 1 --out FILE\n"
    ) in text
    assert "## Selection on 2 photos" in text and "## Evaluation on 2 other photos" in text
    assert text.count("| candidate | passes | SRG | minus lrp_contrast |") == 2
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
            "--held-out",
            2,
            "--rounds",
            1,
            "--cache",
            tmp_path / "cache",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    assert all(f"| {name} |" in text for name in candidates.CANDIDATES)
    assert (
        f"minus {candidates.BASELINE} |" in text
        and "`lrp_blend`, `lrp_contrast` and `lrp_depth` are selectable by name." in text
    )


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
        f"    python benchmarks/perturbation.py --model {NAME} --photos PHOTOS --images 2 --relevance rollout "
        "lrp_depth --steps 4 --out FILE\n"
    ) in text
    assert "Perturbation needs 28 forward passes per image, 14 per method." in text, "2 K (S - 1) + 2 each"
    stages = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert stages == [
        "reading images",
        "maps, rollout",
        "maps, lrp_depth",
        "creating perturbed images",
        "their forward passes",
        "statistics",
        "total",
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

    monkeypatch.setattr(perturbation, "load_photos", lambda *_: (clock.spend(10.0)(), images)[1])
    monkeypatch.setattr(perturbation, "relevance", lambda *_: clock.spend(5.0)())
    monkeypatch.setattr(perturbation, "perturbation_curves", curves)
    args = perturbation.build_parser().parse_args(["--photos", "x", "--images", "2", "--relevance", "rollout", "lrp"])
    spent, passes, unit = perturbation.measure(Model(), args, clock)
    assert spent == {
        "reading images": 5.0,
        "maps, rollout": 2.5,
        "maps, lrp": 2.5,
        "creating perturbed images": 7.0,
        "their forward passes": 12.0,
        "statistics": 0.0,
    }
    assert (passes, unit) == (6.0, 2.0)


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


def test_values_depend_on_the_code_that_is_named():
    """A pattern without a file would leave the cached values of earlier code in use."""
    assert per_photo.code_hash("benchmarks/libragrad.py") != per_photo.code_hash("benchmarks/candidate_methods.py")
    with pytest.raises(ValueError, match="no file of the project matches benchmarks/tried.py"):
        per_photo.code_hash("explain/*.py", "benchmarks/tried.py")
