"""Write docs/families.md: which of timm's vision transformers can be explained, and why the others can't.

    python tools/families.py                           # seconds
    python tools/families.py --out /tmp/families.md

Every model of timm's modules vision_transformer and deit is built with its own structure, but random weights and small
(2 blocks of width 24), and `explain.check_explainable` is asked. Of every other module of transformers one model is
asked, without memory for its weights. tests/explain/test_families.py explains one model of each family that may be.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script in a subfolder; the packages lie one floor up

from explain import UnsupportedModel, check_explainable  # noqa: E402
from files import atomic  # noqa: E402

OUT = ROOT / "docs" / "families.md"
MODULES = ("vision_transformer", "deit")
OTHERS = ("beit", "cait", "convit", "crossvit", "deepseek_vit", "eva", "gemma4_vit", "hiera", "levit", "mvitv2",
          "naflexvit", "pit", "qwen3_vit", "swin_transformer", "swin_transformer_v2", "tiny_vit", "tnt", "twins",
          "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo", "xcit")
SIZES = re.compile(r"^(tiny|xsmall|small|medium|mediumd|base|large|huge|giant|giantopt|gigantic|little|betwixt|wee|plus"
                   r"|so\d+m2?|\db|patch\d+|\d+)$")
CLASSES, GRID = 7, (2, 3)


@dataclass
class Family:
    """Models whose names differ in size alone, and whose parts are the same."""

    name: str
    models: list[str]
    parts: str
    refusal: str | None


def build_small(name: str) -> VisionTransformer:
    """The model's own structure with random weights, 2 blocks of width 24 and 2 x 3 patches."""
    model = timm.create_model(name, embed_dim=24, depth=2, num_heads=2, num_classes=CLASSES).eval()
    model.set_input_size(tuple(count * size for count, size in zip(GRID, model.patch_embed.patch_size)))
    return model


def refusal_of(model: nn.Module) -> str | None:
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        return str(error)
    return None


def family_name(name: str) -> str:
    return " ".join(part for part in name.split("_") if not SIZES.match(part))


def parts_of(model: VisionTransformer) -> str:
    """What distinguishes a structure from the plain ViT with a class token, in words."""
    block = model.blocks[0]
    attention = getattr(block, "attn", None)
    pooling = {"token": "class token", "avg": "mean", "map": "attention pooling"}
    parts = [("two heads", hasattr(model, "head_dist")),
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
             (_activation(block), _activation(block) != "GELU")]
    return ", ".join(name for name, there in parts if there)


def _activation(block: nn.Module) -> str:
    return type(getattr(getattr(block, "mlp", None), "act", nn.GELU())).__name__


def families() -> list[Family]:
    """Every model of MODULES, by family and structure, in timm's order."""
    found: dict[tuple, Family] = {}
    for module in MODULES:
        for name in timm.list_models(module=module):
            model = build_small(name)
            key = (family_name(name), parts_of(model), refusal_of(model))
            found.setdefault(key, Family(key[0], [], *key[1:])).models.append(name)
    return list(found.values())


def other_modules() -> list[tuple[str, str, str]]:
    """(module, one of its models, why it is refused), without memory for weights."""
    rows = []
    for module in OTHERS:
        names = timm.list_models(module=module)
        if names:       # absent from an older timm
            with torch.device("meta"):
                model = timm.create_model(names[0])
            rows.append((module, names[0], refusal_of(model) or "explained"))
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def document() -> str:
    found = families()
    count = sum(len(family.models) for family in found if family.refusal is None)
    rows = [[family.name, family.parts, "no" if family.refusal else "yes", family.refusal or "",
             f"{len(family.models)}: {', '.join(f'`{name}`' for name in family.models)}"]
            for family in sorted(found, key=lambda family: family.refusal is not None)]
    others = [[module, f"`{name}`", why] for module, name, why in other_modules()]
    total = sum(len(family.models) for family in found)
    return f"""# Which models can be explained

Written by `python tools/families.py` from timm {timm.__version__}; decided by structure, not by name.
Of {total} models of timm's modules vision_transformer and deit, {count} can be explained. What cannot be
followed is refused at once, with the part that stands in the way. The parts named are those beside
plain blocks (LayerNorm, one qkv layer, softmax, GELU).
`python -m pytest tests/explain/test_families.py` builds one model of each family small, compares the traced logits with
timm's in float64, and explains it.

{table(["family", "parts", "explained", "why not", "models"], rows)}

## Other modules

Not timm's `VisionTransformer`, or not its plain patch embedding: one model of each.

{table(["module", "model", "why not"], others)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="Markdown file to write (default: docs/families.md)")
    arguments = parser.parse_args()
    with atomic(arguments.out) as temporary:
        temporary.write_text(document())
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
