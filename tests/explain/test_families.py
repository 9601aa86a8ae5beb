"""Models of each family that docs/results/families.md calls explained, small: followed exactly, and explained."""

import pytest
import timm
import torch
from small_vits import randomise
from timm.models.vision_transformer import VisionTransformer

from explain import METHODS, relevance
from explain.trace import Network
from tools.families import (
    CLASSES,
    GRID,
    OUT,
    build_small,
    build_without_memory,
    families,
    family_name,
    main,
    modules_with_vits,
    row_of,
    table,
)

FAMILIES = families(["vision_transformer", "deit"])  # the modules whose models can be built small
EXPLAINED = [family for family in FAMILIES if family.refusal is None]
MODELS = list(dict.fromkeys(name for family in EXPLAINED for name in (family.models[0], family.models[-1])))
of_another_timm = pytest.mark.skipif(
    f"timm {timm.__version__};" not in OUT.read_text(),
    reason=f"docs/results/families.md was written from another timm than {timm.__version__}, the installed one: run "
    "python tools/families.py to compare",
)


def small_and_random(name: str):
    torch.manual_seed(0)
    model = randomise(build_small(name).double())
    return model, torch.randn(2, 3, *model.patch_embed.img_size, dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_traced_logits_equal_timms(name):
    model, images = small_and_random(name)
    with torch.no_grad():
        assert (Network(model).record(images).logits - model(images)).abs().max() < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_finite_and_depends_on_the_class(name):
    model, images = small_and_random(name)
    targets = torch.arange(CLASSES).expand(2, -1)
    for method in METHODS.values():
        maps = relevance(model, images, targets, method.name)
        assert maps.shape == (2, CLASSES, *GRID) and maps.isfinite().all(), method.name
        assert method.signed == bool((maps < 0).any()), method.name
        differs = float((maps - maps.flip(1)).norm() / maps.norm()) > 1e-6
        assert differs == (method.uses_target or method.name == "random"), method.name


def test_the_families_that_users_bring_are_explained():
    refused = {name for family in FAMILIES if family.refusal for name in family.models}
    wanted = (
        "vit_tiny_patch16_224",
        "vit_base_patch16_clip_quickgelu_224",
        "vit_base_patch14_dinov2",
        "deit3_base_patch16_224",
        "vit_base_patch14_reg4_dinov2",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224",
        "deit_tiny_distilled_patch16_224",
        "flexivit_small",
        "vit_intern300m_patch14_448",
    )
    assert not refused & set(wanted) and len(EXPLAINED) >= 30 and len(MODELS) > 50
    assert family_name("vit_so400m_patch14_siglip_gap_224") == "vit siglip gap"


def test_modules_are_found_by_what_they_know():
    found = modules_with_vits()
    assert {"vision_transformer", "deit", "vision_transformer_hybrid"} <= set(found) <= set(timm.list_modules())
    assert not {"eva", "vision_transformer_relpos", "resnet"} & set(found)


# ---- the docs


@of_another_timm
def test_the_docs_have_a_row_for_every_family():
    lines = OUT.read_text().splitlines()
    for row in table(["header"] * 5, [row_of(family) for family in FAMILIES]).splitlines()[2:]:
        assert row in lines


@of_another_timm
def test_the_docs_name_every_module_of_the_registry():
    text = OUT.read_text()
    head, others = text.split("## Other modules")
    for module in timm.list_modules():
        assert f" in {module}" in head or f"| {module} | {len(timm.list_models(module=module))} |" in others


@pytest.mark.slow
@of_another_timm
def test_the_docs_are_what_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["families.py", "--out", str(tmp_path / "families.md")])
    main()
    assert (tmp_path / "families.md").read_text() == OUT.read_text()


@pytest.mark.slow
def test_no_other_module_builds_a_vision_transformer():
    for module in set(timm.list_modules()) - set(modules_with_vits()):
        for name in timm.list_models(module=module):
            assert not isinstance(build_without_memory(name), VisionTransformer), name
