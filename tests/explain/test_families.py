"""One model of each family that docs/families.md calls explained, small: followed exactly, and explained."""

import pytest
import timm
import torch

from explain import METHODS, relevance
from explain.vit import Network
from small_vits import randomise
from tools.families import CLASSES, GRID, OUT, build_small, families, family_name, main

FAMILIES = families()
EXPLAINED = {f"{family.name}: {family.parts}": family for family in FAMILIES if family.refusal is None}


def small_and_random(name: str):
    torch.manual_seed(0)
    model = randomise(build_small(name).double())
    return model, torch.randn(2, 3, *model.patch_embed.img_size, dtype=torch.float64)


@pytest.mark.parametrize("family", EXPLAINED)
def test_traced_logits_equal_timms(family):
    model, images = small_and_random(EXPLAINED[family].models[-1])
    with torch.no_grad():
        assert (Network(model).record(images).logits - model(images)).abs().max() < 1e-10


@pytest.mark.parametrize("family", EXPLAINED)
def test_relevance_is_finite_and_depends_on_the_class(family):
    model, images = small_and_random(EXPLAINED[family].models[0])
    targets = torch.arange(CLASSES).expand(2, -1)
    for name, method in METHODS.items():
        maps = relevance(model, images, targets, name)
        assert maps.shape == (2, CLASSES, *GRID) and maps.isfinite().all(), name
        differs = float((maps - maps.flip(1)).norm() / maps.norm()) > 1e-6
        assert differs == (method.uses_target or name == "random"), name


def test_the_families_that_users_bring_are_explained():
    refused = {name for family in FAMILIES if family.refusal for name in family.models}
    wanted = ("vit_tiny_patch16_224", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch14_dinov2",
              "deit3_base_patch16_224", "vit_base_patch14_reg4_dinov2", "vit_base_patch16_siglip_224",
              "vit_base_patch16_siglip_gap_224", "deit_tiny_distilled_patch16_224", "flexivit_small",
              "vit_intern300m_patch14_448")
    assert not refused & set(wanted) and len(EXPLAINED) >= 30
    assert family_name("vit_so400m_patch14_siglip_gap_224") == "vit siglip gap"


def test_the_table_in_the_docs_is_what_the_command_writes(tmp_path, monkeypatch):
    if f"timm {timm.__version__};" not in OUT.read_text():
        pytest.skip(f"docs/families.md was written from another timm than {timm.__version__}")
    monkeypatch.setattr("sys.argv", ["families.py", "--out", str(tmp_path / "families.md")])
    main()
    assert (tmp_path / "families.md").read_text() == OUT.read_text()
