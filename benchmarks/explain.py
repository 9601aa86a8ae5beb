"""What an explanation costs: forward passes per map and memory, beside other packages that do the same.

    python benchmarks/explain.py --weights FILE      DeiT-Tiny 224, B = 8, K = 1, 2, 10, one thread
    python benchmarks/explain.py --weights FILE --memory --precision PHOTOS --out docs/results/benchmark.md      all of it
    python benchmarks/explain.py --weights FILE --device cuda --throughput --out docs/results/benchmark-gpu.md
    python benchmarks/explain.py --model vit_tiny_patch16_224 --batch 2 --targets 2 --rounds 1

A cost is the time of a call divided by its K and by the time of plain forward passes of the same batch taken right
before and after it, in the same process; the median over rounds. On a CPU, CPU time is counted, with one thread, so
that waiting for other processes is not; they still slow a shared core. On a GPU it is the wall's, until all work is
done.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import memory  # beside this file; it finds the project's folders
import timm
import torch
from peers import PEERS, prepared
from subjects import load, photos
from throughput import throughput
from timing import clock_of, cost, name_of, plain_forward, seconds
from torch import Tensor, nn

from cli.arguments import add_device
from cli.command import run
from cli.parser import make_parser, positive
from common.devices import device_of
from common.tables import markdown_table, number, percent, write_text
from explain import METHODS, relevance
from explain.precision import HalfProducts
from explain.registry import NOT_IN_HALF

PHOTOS = 16
BESIDE = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "
ELSEWHERE = {"weights": "FILE", "precision": "PHOTOS"}  # places that differ from one machine to the next


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, "python benchmarks/explain.py --batch 2 --targets 2 --rounds 1")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name")
    parser.add_argument("--weights", metavar="FILE", help="safetensors file; random weights without")
    parser.add_argument("--batch", type=positive, default=8, metavar="B", help="images")
    parser.add_argument(
        "--targets",
        type=positive,
        nargs="+",
        default=[1, 2, 10],
        metavar="K",
        help="targets an image (default: 1 2 10)",
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME", help="(default: all)"
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--memory",
        nargs="?",
        const=memory.MODEL,
        metavar="NAME",
        help=f"also the peak memory of {memory.BATCH} and {memory.MORE_IMAGES} images in batches of "
        f"{memory.BATCH}, of a timm model (without a name: {memory.MODEL})",
    )
    parser.add_argument(
        "--precision",
        type=Path,
        metavar="DIR",
        help=f"also how far float16 products move the maps of {PHOTOS} photos found below a folder",
    )
    parser.add_argument(
        "--throughput",
        action="store_true",
        help="also maps a second by batch size, doubled until the device's memory is full or no more is "
        "gained, in float32 and, where it is offered, float16",
    )
    parser.add_argument("--largest", type=positive, metavar="B", help="no larger batch for --throughput")
    add_device(parser)
    parser.set_defaults(device="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


# ---- time


def costs(model: nn.Module, args: argparse.Namespace, device: torch.device) -> tuple[list[dict], list[str]]:
    """Return a row for each method, and for what other packages have like it, and remarks on these."""
    images = torch.randn(args.batch, 3, *model.patch_embed.img_size).to(device)
    targets = {count: torch.randint(0, model.num_classes, (args.batch, count)).to(device) for count in args.targets}
    forward, clock = plain_forward(model, images), clock_of(device)
    forward()
    rows, remarks = [], []
    print(
        f"{args.model}, B = {args.batch}, {name_of(device)}, forward {seconds(forward, clock):.3f} s; "
        f"forward passes per map"
    )
    print(f"{'':<30}" + "".join(f"{f'K = {count}':>10}" for count in targets))

    def measure(name: str, explain: Callable[[Tensor], object]) -> None:
        found = {
            count: cost(lambda: explain(chosen), forward, args.rounds, clock) / count
            for count, chosen in targets.items()
        }
        rows.append({"": name} | {f"K = {count}": number(value, 2) for count, value in found.items()})
        print(f"{name:<30}" + "".join(f"{value:>10.2f}" for value in found.values()), flush=True)

    for method in args.methods:
        measure(method, lambda chosen: relevance(model, images, chosen, method))
        for peer in PEERS:
            if peer.ours != method:
                continue
            explain = prepared(peer, model, images)
            if isinstance(explain, str):
                remarks.append(f"{peer.name}, beside `{peer.ours}`, was not measured: {explain}")
                print(f"{BESIDE}{peer.name}: {explain}")
            else:
                measure(f"{BESIDE}{peer.name}", explain)
                remarks.append(f"{peer.name} ({version(peer.package)}), beside `{peer.ours}`: {peer.difference}.")
    return rows, remarks


# ---- precision


def precision(model: nn.Module, args: argparse.Namespace, device: torch.device) -> list[dict]:
    """Return how far factors of 16 bits in matrix products move each method's maps, whether or not it offers them."""
    images = photos(args.precision, model, PHOTOS, "--precision").to(device)
    with torch.inference_mode():
        predicted = model(images).argmax(1)
    targets = torch.stack([predicted, torch.randint(0, model.num_classes, predicted.shape).to(device)], 1)
    rows = []
    print(
        f"distance of maps in float16 and bfloat16 from float32: {len(images)} photos, the predicted class and a random one"
    )
    for method in args.methods:
        exact = relevance(model, images, targets, method).flatten(2)
        found = {}
        for dtype in (torch.float16, torch.bfloat16):
            with HalfProducts(dtype):
                half = relevance(model, images, targets, method).flatten(2)
            distance = ((half - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()
            distance = distance[~distance.isnan()]  # a map that is 0 has no scale
            name = str(dtype).removeprefix("torch.")
            found |= {
                f"{name}: median": percent(float(distance.median()), 2),
                f"{name}: worst": percent(float(distance.max()), 2),
            }
        rows.append({"": method, **found, "offered": "no" if method in NOT_IN_HALF else "float16"})
        print(f"{method:<30}" + "".join(f"{value:>10}" for value in found.values()), flush=True)
    return rows


# ---- all of it


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    device = device_of(args.device)
    model = (
        load(args.model, args.weights).requires_grad_(False).to(device)
    )  # saves other packages the weights' gradients
    parts = [
        f"""# What explanations cost

    {command_of(args)}

torch {torch.__version__}, timm {timm.__version__}, {name_of(device)}.
""",
        time_part(model, args, device),
    ]
    if args.memory:
        parts.append(memory_part(args, device))
    if args.precision:
        parts.append(precision_part(model, args, device))
    if args.throughput:
        parts.append(throughput_part(model, args, device))
    if args.out:
        write_text(args.out, "\n".join(parts))


def time_part(model: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    rows, remarks = costs(model, args, device)
    table = markdown_table(rows, align="l" + "r" * len(args.targets))
    whose = "CPU" if device.type == "cpu" else "wall-clock"
    listed = "".join(f"- {remark}\n" for remark in remarks)
    return f"""## Time

Forward passes per map: {described(args)}, B = {args.batch}, K targets an image, float32; the median of
{args.rounds} rounds of {whose} time. Under a method, what other packages have like it, measured beside it.

{table}""" + (f"\n{listed}" if listed else "")


def memory_part(args: argparse.Namespace, device: torch.device) -> str:
    whose = "the whole process, weights and libraries included" if device.type != "cuda" else "the GPU's memory"
    return f"""## Memory

Peak of {whose}, in GiB: {args.memory}, random images that come in batches of
{memory.BATCH}, their maps written to a file (`explain.storage.save_relevance`), K targets an image.

{memory.memory(args.memory, args.seed, device)}"""


def precision_part(model: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    return f"""## float16

Relative distance (L2) of each map to float32's when matrix products take factors of 16 bits: {PHOTOS} photos, the predicted
class and a random one. `--precision float16` and `relevance(..., precision="float16")` offer it to methods that stay within
2 % whatever the other class; bfloat16 is offered to none.

{markdown_table(precision(model, args, device), align="lrrrrr")}"""


def throughput_part(model: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    targets = 2 if 2 in args.targets else args.targets[0]
    slower = "" if device.type != "cpu" else "\nA CPU rounds to float16 and multiplies in float32, which is slower."
    return f"""## Throughput

Maps a second, and in brackets the peak of the device's memory in GiB, where it is known: {described(args)},
B images at a time, K = {targets}; the mean of {args.rounds} rounds. B is doubled until the memory is full or two doublings
in a row bring less than 2 % more.{slower}

{throughput(model, args.methods, targets, args.rounds, device, args.largest)}"""


def described(args: argparse.Namespace) -> str:
    return f"{args.model} ({'random' if args.weights is None else 'trained'} weights)"


def command_of(args: argparse.Namespace) -> str:
    """Return the command that writes the document."""
    default, given = vars(build_parser().parse_args([])), ["python benchmarks/explain.py"]
    for name, value in vars(args).items():
        if value == default[name]:
            continue
        value = ELSEWHERE.get(name, value)
        bare = value is True or name == "memory" and value == memory.MODEL
        words = [] if bare else map(str, value) if isinstance(value, list) else [str(value)]
        given.append(" ".join([f"--{name}", *words]))
    return " ".join(given)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was kept; the same command starts again"))
