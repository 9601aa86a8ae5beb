"""Measure a training step of DoRA by peft and by models/dora.py, beside one of LoRA.

    python benchmarks/dora.py --out docs/results/dora.md    # DeiT-Tiny 224, 16 images, rank 8, all four linear layers
    python benchmarks/dora.py --model vit_base_patch16_224 --batch 4 --rounds 5
    python benchmarks/dora.py --model test_vit --batch 2 --rounds 1

A step is forward, backward and AdamW on random images. The three variants are interleaved in one process with one
thread; a ratio is of two steps of the same round, and the median over rounds is reported. CPU time does not count
waiting for other processes. It includes the allocation of memory, which depends on what the process did before.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

import peft
import timm
import torch
from peft.tuners.lora import LoraLayer
from timing import seconds
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from models.adapters import target_pattern
from models.backbone import architecture, model_data_config
from models.dora import speed_up_dora
from models.methods import MethodSettings
from models.options import BackboneSpec

LORA, PEFT, OURS = "LoRA, peft", "DoRA, peft", "DoRA, models/dora.py"
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
OPERATORS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "attention": (ATTENTION, f"{ATTENTION}_backward"),
    "elementwise operations and sums": ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "sum", "copy_"),
}
REST = "other"
Loss = Callable[[nn.Module], torch.Tensor]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/dora.py --model test_vit --batch 2 --rounds 1")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name; weights are random")
    parser.add_argument("--batch", type=positive, default=16, metavar="B", help="images per step")
    parser.add_argument("--rank", type=positive, default=8, metavar="R", help="rank of the adapters")
    parser.add_argument("--rounds", type=positive, default=10, metavar="N", help="steps of each variant")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


def adapted(args: argparse.Namespace, dora: bool) -> nn.Module:
    """Return peft's model in training mode with a trainable head, with the same weights in every call."""
    torch.manual_seed(args.seed)
    model = timm.create_model(args.model)
    pattern = target_pattern(model, MethodSettings("dora" if dora else "lora"))
    config = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, use_dora=dora, target_modules=pattern)
    wrapped = peft.get_peft_model(model, config).train()
    model.get_classifier().requires_grad_(True)
    return wrapped


def make_step(model: nn.Module, loss: Loss) -> Callable[[], None]:
    """Return a function that does one training step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model).backward()
        optimizer.step()

    return step


def by_kind(step: Callable[[], None]) -> dict[str, float]:
    """Return the self time of a step in milliseconds, by kind of operator."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = dict.fromkeys([*OPERATORS, REST], 0.0)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in OPERATORS.items() if name in names), REST)
        spent[kind] += event.self_cpu_time_total / 1000
    return spent


def saved_for_backward(model: nn.Module, loss: Loss) -> float:
    """Return the memory that a forward pass saves for backward, without parameters, in MiB; a storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model)
    return sum(size for pointer, size in sizes.items() if pointer not in own) / 2**20


def ratios(rounds: list[dict[str, float]], name: str) -> str:
    """Format the ratio of a variant's steps to LoRA's: the median over rounds, and the range."""
    found = [taken[name] / taken[LORA] for taken in rounds]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def median(rounds: list[dict[str, float]], name: str) -> float:
    """Return the median over rounds of a variant's values."""
    return statistics.median(taken[name] for taken in rounds)


@torch.no_grad()
def weight_norms(model: nn.Module) -> None:
    """Compute the weight norms of all layers once, as peft does in every forward pass."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            magnitude = layer.lora_magnitude_vector["default"]
            product = magnitude.get_lora_weight(lora_A=layer.lora_A["default"], lora_B=layer.lora_B["default"])
            magnitude.get_weight_norm(layer.base_layer.weight, product, layer.scaling["default"])


def main(args: argparse.Namespace) -> None:
    """Measure; print and write the tables."""
    torch.set_num_threads(1)
    sizes = architecture(BackboneSpec(args.model))  # raises UsageError for an unknown name
    images = torch.randn(args.batch, *model_data_config(sizes)["input_size"])
    labels = torch.randint(0, sizes.num_classes, (args.batch,))
    models = {
        LORA: adapted(args, dora=False),
        PEFT: adapted(args, dora=True),
        OURS: speed_up_dora(adapted(args, dora=True)),
    }

    def loss(model: nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    steps = {name: make_step(model, loss) for name, model in models.items()}
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(args.rounds + 1)][
        1:
    ]  # without a warm-up
    rows = [
        {
            "": name,
            "CPU s": number(median(rounds, name), 2),
            "times LoRA's (range)": ratios(rounds, name),
            "saved for backward, MiB": number(saved_for_backward(models[name], loss), 0),
        }
        for name in steps
    ]
    profiles = [{name: by_kind(step) for name, step in steps.items()} for _ in range(args.rounds)]
    parts = [
        {"ms": kind} | {name: number(statistics.median(taken[name][kind] for taken in profiles), 0) for name in steps}
        for kind in (*OPERATORS, REST)
    ]
    norms = statistics.median(seconds(partial(weight_norms, models[PEFT])) for _ in range(args.rounds))
    text = f"""{args.model}, {args.batch} images, rank {args.rank}, random weights, one CPU thread; time of a step, median of \
{args.rounds} rounds; torch {torch.__version__}, peft {peft.__version__}, timm {timm.__version__}.

{markdown_table(rows, align="lrrr")}
Time by kind of operator, from torch's profiler (wall time, which other processes may increase):

{markdown_table(parts, align="lrrr")}
peft computes the weight norms of all layers in every forward pass: {1000 * norms:.0f} ms, {percent(norms / median(rounds, PEFT))} of its step.
Caching them between the passes of an accumulated step would save no more than that. `models/dora.py` merges the weights in
every pass with the same product and norm, which saves the products with A and B over all tokens and their additions.
"""
    print(text)
    if args.out:
        write_text(
            args.out,
            f"# The time of a DoRA step\n\nWritten by\n\n    python benchmarks/dora.py --out FILE\n\n{text}",
        )


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
