"""CONTRIBUTING.md by example: what a new relevance method, adapter, metric or data set takes, and that it then works.

Each test adds table entries, as an edit of the named file would, and uses them by the public path alone.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from running import command
from small_vits import make_vit
from tiny import colour_folder

import compare
import train
from data.datasets import load_data
from data.options import DataOptions
from evaluation import measurements
from evaluation.metrics import registry as metrics
from evaluation.metrics.registry import COMPLEXITY, MetricInfo
from explain import methods, relevance
from explain import registry as relevance_methods
from explain.registry import RelevanceMethod
from models import adapters
from models import methods as adaptation
from models.methods import Method, MethodSettings
from models.runs import load_run
from models.training import recipe
from models.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_a_new_relevance_method(monkeypatch):
    """Two entries of one name: its description in explain/registry.py, its function in explain/methods.py."""

    def first_attention(network, images, targets):
        """Map what the class token attends to in block 0, mean over heads; the same for every target."""
        record = network.record(images)
        block = record.blocks[0]
        to_patches = block.attention[:, :, 0, 0, -record.grid[0] * record.grid[1] :].mean(1)  # (B, P)
        return to_patches.unflatten(-1, record.grid)[:, None].expand(-1, targets.shape[1], -1, -1).clone()

    described = RelevanceMethod(
        name="first_attention",
        signed=False,
        uses_target=False,
        passes=0.6,
        source="an example",
        description="the first attention of the class token",
        options=(),
        contrast=None,
    )
    monkeypatch.setitem(relevance_methods.METHODS, "first_attention", described)
    monkeypatch.setitem(methods.FUNCTIONS, "first_attention", first_attention)
    model, images = make_vit(), torch.randn(2, 3, 24, 24, dtype=torch.float64)
    maps = relevance(model, images, torch.tensor([[0, 1], [2, 3]]), "first_attention")
    assert maps.shape == (2, 2, 3, 3) and (maps > 0).all() and (maps.sum((-2, -1)) < 1).all()
    assert "first_attention" in compare.build_parser().format_help()


def test_a_new_adapter(shop, tmp_path, monkeypatch):
    """Three entries of one name: models/methods.py, models/adapters.py, and a recipe in models/training/recipe.py."""

    def rank_stabilised(model, settings: MethodSettings):
        from peft import LoraConfig, get_peft_model

        pattern = adapters.target_pattern(model, settings)
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, use_rslora=True, target_modules=pattern)
        adapted = get_peft_model(model, config)
        for head in adapters.heads_of(adapters.timm_model(adapted)):
            head.requires_grad_(True)
        return adapted

    described = Method("rank-stabilised low-rank adapters (Kalajdzievski, 2023)", adapter=True)
    monkeypatch.setitem(adaptation.METHODS, "rslora", described)
    monkeypatch.setitem(recipe.RECIPES, "rslora", Recipe(epochs=1, learning_rate=1e-3))
    monkeypatch.setitem(adapters._ADAPT, "rslora", rank_stabilised)
    argv = [*shop.options, "--method", "rslora:blocks=4-5,rank=2", "--out", tmp_path / "run"]
    assert command(train, *argv) == 0
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["use_rslora"]
    run = load_run(tmp_path / "run", shop.weights)
    assert run.label == "rslora:blocks=4+5,rank=2" and not adapters.is_adapted(run.model)


def test_a_new_metric(shop, tmp_path, monkeypatch):
    """Two entries of one name: a row in evaluation/metrics/registry.py, a function in evaluation/measurements.py."""

    def peak(maps) -> np.ndarray:
        """Compute the share of a map's magnitude that its largest value has; (..., gh, gw) -> (...)."""
        magnitude = np.abs(np.asarray(maps, dtype=np.float64))
        return magnitude.max((-2, -1)) / magnitude.sum((-2, -1))

    described = MetricInfo(
        name="peak",
        title="share of the largest value",
        family=COMPLEXITY,
        direction=None,
        unit="share of relevance",
        chance=None,
        source="",
        higher_is="more concentrated",
    )
    monkeypatch.setitem(metrics.METRICS, "peak", described)
    monkeypatch.setitem(measurements.COMPLEXITY, "peak", peak)
    assert metrics.info_of("peak").note == "higher is more concentrated"
    assert command(compare, shop.linear, shop.dora, "--images", 4, "--rows", 1, "--out", tmp_path) == 0
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    values = [float(row[column]) for row in rows for column in ("peak_true", "peak_random")]
    assert len(values) == 16 and all(0.25 <= value <= 1 for value in values)  # of 2 x 2 patches


def test_a_new_data_set(tmp_path):
    """No code: a folder with train/ and val/, one subfolder per class, and masks of the evidence where it has some."""
    root = colour_folder(tmp_path / "colours")
    for image in sorted((root / "val" / "red").glob("*.png")):
        mask = np.zeros((32, 32), np.uint8)
        mask[:16] = 255  # the evidence is white
        (root / "masks" / "red").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / "red" / image.name)
    data = load_data(DataOptions(str(root)), image_size=32)
    assert data.class_names == ("blue", "green", "red") and set(data.splits) == {"train", "val"}
    val = data.splits["val"]
    red = [i for i, label in enumerate(val.labels) if data.class_names[label] == "red"]
    assert all(val.masks(i)["evidence"].mean() == 0.5 for i in red) and len(red) == 6


# ---- the documents themselves


def test_every_link_between_documents_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_file_and_test_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`(?:python )?((?:docs|tests|tools|models|explain|evaluation|data|cli|common|benchmarks)/[\w/.]+)`", text
    )
    assert named and [name for name in named if not (ROOT / name).exists()] == []
    assert set(re.findall(r"\(`(test_a_new_\w+)`\)", text)) == {
        name for name in globals() if name.startswith("test_a_new")
    }


def test_the_readme_stays_short_and_its_test_command_is_that_of_ci():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert f"```bash\n{last}\n```" in readme
