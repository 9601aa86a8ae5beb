"""Write docs/results/families.md: which of timm's vision transformers can be explained, and why the others can't.

    python tools/families.py                           # half a minute
    python tools/families.py --out /tmp/families.md

Of each timm module whose namespace holds a VisionTransformer, every model is built: with its own structure, random
weights and a small size (2 blocks of width 24) or, where that is impossible (a convolutional stem), at its own size on
torch's meta device; `explain.check_explainable` says whether it can be explained. The other modules build no
VisionTransformer, which the first model of each by name shows (all of them: pytest -m slow).
tests/explain/test_families.py explains models of each explainable family.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

from common.files import atomic
from explain import UnsupportedModel, check_explainable

OUT = ROOT / "docs" / "results" / "families.md"
SIZES = re.compile(
    r"^(tiny|xsmall|small|medium|mediumd|base|large|huge|giant|giantopt|gigantic|little|betwixt|wee|plus"
    r"|so\d+m2?|\db|patch\d+|\d+)$"
)
CLASSES, GRID = 7, (2, 3)


@dataclass
class Family:
    """Models of one structure whose names differ in size only.

    name: their common name.
    module: timm's module.
    models: their names.
    parts: what distinguishes the structure, in words.
    refusal: why they cannot be explained; None if they can.
    """

    name: str
    module: str
    models: list[str]
    parts: str
    refusal: str | None


def modules_with_vits() -> list[str]:
    """Return the modules of timm's registry whose namespace holds a VisionTransformer."""
    return [
        module
        for module in timm.list_modules()
        for name in timm.list_models(module=module)[:1]
        if any(
            isinstance(value, type) and issubclass(value, VisionTransformer)
            for value in vars(sys.modules[timm.model_entrypoint(name).__module__]).values()
        )
    ]


def build_small(name: str) -> VisionTransformer:
    """Build a model's structure with random weights, 2 blocks of width 24 and 2 x 3 patches."""
    model = timm.create_model(name, embed_dim=24, depth=2, num_heads=2, num_classes=CLASSES).eval()
    model.set_input_size(tuple(count * size for count, size in zip(GRID, model.patch_embed.patch_size)))
    return model


def build_without_memory(name: str) -> nn.Module:
    """Build a model on torch's meta device, without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name)


def build(name: str) -> nn.Module:
    """Build a small model, or one without memory where a part before the blocks has a fixed width."""
    try:
        return build_small(name)
    except (AssertionError, RuntimeError):
        return build_without_memory(name)


def refusal_of(model: nn.Module) -> str | None:
    """Return why a model cannot be explained; None if it can."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        return str(error)
    return None


def family_name(name: str) -> str:
    """Return a model's name without its size."""
    return " ".join(part for part in name.split("_") if not SIZES.match(part))


def parts_of(model: VisionTransformer) -> str:
    """Describe what distinguishes a structure from the plain ViT."""
    block = model.blocks[0]
    attention = getattr(block, "attn", None)
    pooling = {"token": "class token", "avg": "mean", "map": "attention pooling"}
    parts = [
        ("two heads", hasattr(model, "head_dist")),
        (pooling.get(model.global_pool, model.global_pool), True),
        ("no class token", not model.has_class_token),
        (f"{model.num_reg_tokens} register tokens", model.num_reg_tokens > 0),
        ("no_embed_class", model.no_embed_class),
        ("any image size", model.dynamic_img_size),
        ("norm_pre", not isinstance(model.norm_pre, nn.Identity)),
        ("LayerScale", not isinstance(getattr(block, "ls1", nn.Identity()), nn.Identity)),
        ("q/k norm", isinstance(attention, Attention) and not isinstance(attention.q_norm, nn.Identity)),
        ("fc_norm", not isinstance(model.fc_norm, nn.Identity)),
        ("no final norm", all(isinstance(norm, nn.Identity) for norm in (model.norm, model.fc_norm))),
        (_activation(block), _activation(block) != "GELU"),
    ]
    return ", ".join(name for name, there in parts if there)


def _activation(block: nn.Module) -> str:
    return type(getattr(getattr(block, "mlp", None), "act", nn.GELU())).__name__


def families(modules: Iterable[str]) -> list[Family]:
    """Return every model of some modules, by family and structure, in timm's order."""
    found: dict[tuple, Family] = {}
    for module in modules:
        for name in timm.list_models(module=module):
            model = build(name)
            key = (family_name(name), module, parts_of(model), refusal_of(model))
            found.setdefault(key, Family(key[0], module, [], *key[2:])).models.append(name)
    return list(found.values())


def other_modules(modules: Iterable[str]) -> list[list[str]]:
    """Return a row for each module: name, number of models, first model by name, why that one is refused."""
    rows = []
    for module in modules:
        names = timm.list_models(module=module)
        for name in names[:1]:
            refusal = refusal_of(build_without_memory(name)) or "explained"
            rows.append([module, str(len(names)), f"`{name}`", refusal.partition(";")[0]])
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def row_of(family: Family) -> list[str]:
    """Return a family's row of the table."""
    return [
        family.name,
        family.parts,
        "no" if family.refusal else "yes",
        family.refusal or "",
        f"{len(family.models)}: {', '.join(f'`{name}`' for name in family.models)}",
    ]


def counted(found: list[Family]) -> str:
    """Say how many models can be explained, by module."""
    asked, explained = Counter(), Counter()
    for family in found:
        asked[family.module] += len(family.models)
        explained[family.module] += len(family.models) if family.refusal is None else 0
    return f"{explained.total()} of {asked.total()} can be explained:\n" + ", ".join(
        f"{explained[module]} of {count} in {module}" for module, count in asked.items()
    )


def document() -> str:
    """Return docs/results/families.md."""
    modules = modules_with_vits()
    found = sorted(families(modules), key=lambda family: family.refusal is not None)
    others = [module for module in timm.list_modules() if module not in modules]
    return f"""# Which models can be explained

Written by `python tools/families.py` from timm {timm.__version__}; decided by structure, not by name.
Of timm's {len(timm.list_modules())} modules, {len(modules)} can build a `VisionTransformer`. Of all their models, {counted(found)}.
Other models are refused at once, with the unsupported part. The column "parts" names what differs from plain blocks
(LayerNorm, one qkv layer, softmax, GELU).
`python -m pytest tests/explain/test_families.py` builds small models of each family, compares the traced logits with
timm's in float64, and explains them.

{table(["family", "parts", "explained", "why not", "models"], [row_of(family) for family in found])}

## Other modules

The other {len(others)} modules do not import the class `VisionTransformer`, so that none of their models is one. The first
model of each by name was checked too.

{table(["module", "models", "checked", "why not"], other_modules(others))}
"""


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="Markdown file (default: docs/results/families.md)")
    arguments = parser.parse_args()
    with atomic(arguments.out) as temporary:
        temporary.write_text(document())
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
