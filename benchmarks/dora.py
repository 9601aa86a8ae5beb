"""What a DoRA training step costs beside LoRA's, as peft computes it and as models/dora.py does.

    python benchmarks/dora.py --out docs/results/dora.md      DeiT-Tiny 224, 16 images, rank 8 on all four linear layers
    python benchmarks/dora.py --model vit_base_patch16_224 --batch 4 --rounds 5
    python benchmarks/dora.py --model test_vit --batch 2 --rounds 1

A step is forward, backward and AdamW on random images. The three take turns in one process with one thread; a ratio is
of two steps of the same round, and the median over rounds counts. It is of CPU time, so that waiting for other
processes is not counted; what the system needs to hand out memory is, and differs with what the process did before.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import timm
import torch
from peft.tuners.lora import LoraLayer
from timing import seconds  # beside this file; it finds the project's folders
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

LORA, PEFT, OURS = "LoRA, peft", "DoRA, peft", "DoRA, ours"
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
KINDS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "attention": (ATTENTION, f"{ATTENTION}_backward"),
    "elementwise passes and sums": ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "sum", "copy_"),
}
REST = "everything else"
Loss = Callable[[nn.Module], torch.Tensor]


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, "python benchmarks/dora.py --model test_vit --batch 2 --rounds 1")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name; weights are random")
    parser.add_argument("--batch", type=positive, default=16, metavar="B", help="images")
    parser.add_argument("--rank", type=positive, default=8, metavar="R")
    parser.add_argument("--rounds", type=positive, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


def adapted(args: argparse.Namespace, dora: bool) -> nn.Module:
    """Return peft's model in training mode, with the head trainable; the same weights in every call."""
    torch.manual_seed(args.seed)
    model = timm.create_model(args.model)
    pattern = target_pattern(model, MethodSettings("dora" if dora else "lora"))
    config = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, use_dora=dora, target_modules=pattern)
    wrapped = peft.get_peft_model(model, config).train()
    model.get_classifier().requires_grad_(True)
    return wrapped


def stepper(model: nn.Module, loss: Loss) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model).backward()
        optimizer.step()

    return step


def by_kind(step: Callable[[], None]) -> dict[str, float]:
    """Return the milliseconds of a step by kind of operator, each without what the operators that it calls take."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if name in names), REST)
        spent[kind] += event.self_cpu_time_total / 1000
    return spent


def kept(model: nn.Module, loss: Loss) -> float:
    """Return what a forward pass keeps for backward beside parameters, in MiB; views of one array count once."""
    own, sizes = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model)
    return sum(size for pointer, size in sizes.items() if pointer not in own) / 2**20


def ratios(rounds: list[dict[str, float]], name: str) -> str:
    found = [taken[name] / taken[LORA] for taken in rounds]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(taken[name] for taken in rounds)


@torch.no_grad()
def weight_norms(model: nn.Module) -> None:
    """Compute the norms of all layers' merged rows once, as peft does in every forward pass."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            magnitude = layer.lora_magnitude_vector["default"]
            product = magnitude.get_lora_weight(lora_A=layer.lora_A["default"], lora_B=layer.lora_B["default"])
            magnitude.get_weight_norm(layer.base_layer.weight, product, layer.scaling["default"])


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sizes = architecture(BackboneSpec(args.model))  # refuses a name that timm does not know
    images = torch.randn(args.batch, *model_data_config(sizes)["input_size"])
    labels = torch.randint(0, sizes.num_classes, (args.batch,))
    models = {
        LORA: adapted(args, dora=False),
        PEFT: adapted(args, dora=True),
        OURS: speed_up_dora(adapted(args, dora=True)),
    }

    def loss(model: nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    steps = {name: stepper(model, loss) for name, model in models.items()}
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(args.rounds + 1)][1:]  # 1 warms up
    rows = [
        {
            "": name,
            "CPU s": number(median(rounds, name), 2),
            "times LoRA's (range)": ratios(rounds, name),
            "kept for backward, MiB": number(kept(models[name], loss), 0),
        }
        for name in steps
    ]
    profiles = [
        {name: by_kind(step) for name, step in steps.items()} for _ in range(args.rounds)
    ]  # taking turns, as above
    parts = [
        {"ms": kind} | {name: number(statistics.median(taken[name][kind] for taken in profiles), 0) for name in steps}
        for kind in (*KINDS, REST)
    ]
    norms = statistics.median(seconds(lambda: weight_norms(models[PEFT])) for _ in range(args.rounds))
    text = f"""{args.model}, {args.batch} images, rank {args.rank}, random weights, one CPU thread; a step, median of \
{args.rounds} rounds; torch {torch.__version__}, peft {peft.__version__}, timm {timm.__version__}.

{markdown_table(rows, align="lrrr")}
Where the time goes, by torch's profiler (time on the clock, of which other processes may take some):

{markdown_table(parts, align="lrrr")}
peft computes the weight norms of all layers once a forward pass: {1000 * norms:.0f} ms, {percent(norms / median(rounds, PEFT))} of its
step, which is all that keeping them between the passes of an accumulated step could save. Ours merges the weights in each
pass by the same product and norm, and so saves the products with A and B over all tokens and the passes that join them.
"""
    print(text)
    if args.out:
        write_text(
            args.out, f"# What a DoRA step costs\n\nWritten by\n\n    python benchmarks/dora.py --out FILE\n\n{text}"
        )


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
