"""Measure the cost of explanations in forward passes per map, in memory and in precision, beside other packages.

    python benchmarks/explain.py --weights FILE                        # DeiT-Tiny 224, B = 8, K = 1, 2, 10, one thread
    python benchmarks/explain.py --weights FILE --memory --precision PHOTOS --out docs/results/benchmark.md    # all
    python benchmarks/explain.py --weights FILE --device cuda --throughput --out docs/results/benchmark-gpu.md
    python benchmarks/explain.py --model vit_tiny_patch16_224 --batch 2 --targets 2 --rounds 1

The cost is the time of a call divided by its number of targets K and by the time of plain forward passes of the same
batch, measured right before and after it in the same process; the median over rounds. On a CPU it is CPU time with one
thread, which does not count waiting for other processes, although these slow down a shared core. On a GPU it is wall
time until all work is done.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages, one of which is called explain like this script

import memory
import timm
import torch
from inputs import load_model, load_photos
from peers import PEERS, prepared
from throughput import throughput
from timing import clock_of, cost, name_of, plain_forward, seconds
from torch import Tensor, nn

from cli.command import run
from cli.parser import make_parser, positive
from common.devices import device_of
from common.tables import markdown_table, number, percent, write_text
from explain import METHODS, relevance
from explain.methods import FUNCTIONS
from explain.precision import HalfProducts
from explain.registry import NOT_IN_HALF
from explain.trace import Network

PHOTOS = 16
BESIDE = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "
PLACEHOLDERS = {"weights": "FILE", "precision": "PHOTOS"}  # paths depend on the machine


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
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
        help="targets per image (default: 1 2 10)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=list(METHODS),
        metavar="NAME",
        help="relevance methods (default: all)",
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="measurements behind each median")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random images and weights")
    parser.add_argument(
        "--memory",
        nargs="?",
        const=memory.MODEL,
        metavar="NAME",
        help=f"also measure the peak memory for {memory.BATCH} and {memory.MORE_IMAGES} images in batches of "
        f"{memory.BATCH} of a timm model (without a name: {memory.MODEL})",
    )
    parser.add_argument(
        "--precision",
        type=Path,
        metavar="DIR",
        help=f"also measure how much float16 products change the maps of {PHOTOS} photos below a folder",
    )
    parser.add_argument(
        "--throughput",
        action="store_true",
        help="also measure maps per second by batch size, doubled until the device's memory is full or it brings no "
        "gain, in float32 and, where it is offered, in float16",
    )
    parser.add_argument("--largest", type=positive, metavar="B", help="largest batch of --throughput")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


# ---- time


def explain_by(method: str, model: nn.Module, images: Tensor, targets: Tensor) -> object:
    """Return the maps of a method."""
    return relevance(model, images, targets, method)


def costs(model: nn.Module, args: argparse.Namespace, device: torch.device) -> tuple[list[dict], list[str]]:
    """Return a row for each method and for each comparable one of other packages, and remarks on these."""
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
            count: cost(partial(explain, chosen), forward, args.rounds, clock) / count
            for count, chosen in targets.items()
        }
        rows.append({"": name} | {f"K = {count}": number(value, 2) for count, value in found.items()})
        print(f"{name:<30}" + "".join(f"{value:>10.2f}" for value in found.values()), flush=True)

    for method in args.methods:
        measure(method, partial(explain_by, method, model, images))
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
    """Return the distance of each method's maps from float32 when the factors of matrix products have 16 bits."""
    images = load_photos(args.precision, model, PHOTOS, "--precision").to(device)
    with torch.inference_mode():
        predicted = model(images).argmax(1)
    targets = torch.stack([predicted, torch.randint(0, model.num_classes, predicted.shape).to(device)], 1)
    rows = []
    print(
        f"distance of maps in float16 and bfloat16 from float32: {len(images)} photos, the predicted and a random class"
    )
    for method in args.methods:
        exact = relevance(model, images, targets, method).flatten(2)
        found = {}
        for dtype in (torch.float16, torch.bfloat16):
            # Not by `relevance`, which refuses a model whose logits differ from those that are traced with rounding.
            with torch.no_grad(), HalfProducts(dtype):
                half = FUNCTIONS[method](Network(model), images, targets).flatten(2)
            distance = ((half - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()
            distance = distance[~distance.isnan()]  # for a map that is 0, it is undefined
            name = str(dtype).removeprefix("torch.")
            found |= {
                f"{name}: median": percent(float(distance.median()), 2),
                f"{name}: worst": percent(float(distance.max()), 2),
            }
        rows.append({"": method, **found, "offered": "no" if method in NOT_IN_HALF else "float16"})
        print(f"{method:<30}" + "".join(f"{value:>10}" for value in found.values()), flush=True)
    return rows


# ---- the document


def main(args: argparse.Namespace) -> None:
    """Measure; write the document."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    device = device_of(args.device)
    model = load_model(args.model, args.weights).to(device)
    model.requires_grad_(False)  # other packages then compute no gradients of weights
    parts = [
        f"""# The cost of explanations

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
    """Measure forward passes per map; return the section."""
    rows, remarks = costs(model, args, device)
    table = markdown_table(rows, align="l" + "r" * len(args.targets))
    whose = "CPU" if device.type == "cpu" else "wall-clock"
    listed = "".join(f"- {remark}\n" for remark in remarks)
    return f"""## Time

Forward passes per map: {described(args)}, B = {args.batch}, K targets per image, float32; the median of
{args.rounds} rounds of {whose} time. Under a method stand comparable ones of other packages, measured right after it.

{table}""" + (f"\n{listed}" if listed else "")


def memory_part(args: argparse.Namespace, device: torch.device) -> str:
    """Measure the peak memory; return the section."""
    whose = "the whole process, weights and libraries included" if device.type != "cuda" else "the GPU's memory"
    return f"""## Memory

Peak of {whose}, in GiB: {args.memory}, random images in batches of
{memory.BATCH}, maps written to a file (`explain.storage.save_relevance`), K targets per image.

{memory.memory(args.memory, args.seed, device)}"""


def precision_part(model: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    """Measure the effect of float16 on maps; return the section."""
    return f"""## float16

Relative L2 distance of each map from its float32 version when the factors of matrix products have 16 bits: {PHOTOS} photos,
the predicted and a random class. `--precision float16` and `relevance(..., precision="float16")` are offered for methods that
stay within 2 % for any class; bfloat16 is offered for none.

{markdown_table(precision(model, args, device), align="lrrrrr")}"""


def throughput_part(model: nn.Module, args: argparse.Namespace, device: torch.device) -> str:
    """Measure maps per second; return the section."""
    targets = 2 if 2 in args.targets else args.targets[0]
    slower = (
        "" if device.type != "cpu" else "\nA CPU rounds factors to float16 and multiplies in float32, which is slower."
    )
    return f"""## Throughput

Maps per second, and in brackets the peak of the device's memory in GiB, where it is known: {described(args)},
B images at once, K = {targets}; the mean of {args.rounds} rounds. B is doubled until memory is full or two doublings in a row
gain less than 2 %.{slower}

{throughput(model, args.methods, targets, args.rounds, device, args.largest)}"""


def described(args: argparse.Namespace) -> str:
    """Return the model and whether its weights are trained."""
    return f"{args.model} ({'random' if args.weights is None else 'trained'} weights)"


def command_of(args: argparse.Namespace) -> str:
    """Return the command that writes the document."""
    default, given = vars(build_parser().parse_args([])), ["python benchmarks/explain.py"]
    for name, value in vars(args).items():
        if value == default[name]:
            continue
        value = PLACEHOLDERS.get(name, value)
        bare = value is True or name == "memory" and value == memory.MODEL
        words = [] if bare else map(str, value) if isinstance(value, list) else [str(value)]
        given.append(" ".join([f"--{name}", *words]))
    return " ".join(given)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
