"""What an explanation costs: forward passes per map and memory, beside other packages that do the same.

    python benchmarks/explain.py --weights FILE      DeiT-Tiny 224, B = 8, K = 1, 2, 10, one thread
    python benchmarks/explain.py --weights FILE --memory --precision PHOTOS --out docs/benchmark.md      all of it
    python benchmarks/explain.py --model vit_tiny_patch16_224 --batch 2 --targets 2 --rounds 1

A cost is the time of a call divided by its K and by the time of plain forward passes of the same
batch taken right before and after it, in the same process; the median over rounds. CPU time is
counted, with one thread, so that waiting for other processes is not; they still slow a shared core.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
from torch import Tensor, nn

import commandline
from data.images import EXTENSIONS, open_image
from data.transforms import evaluation_transform
from errors import UsageError
from explain import METHODS, relevance
from explain.precision import HalfProducts
from peers import PEERS, prepared
from report.tables import markdown_table, number, percent, write_text

MEMORY_MODEL, MEMORY_BATCH, MEMORY_TARGETS = "vit_base_patch16_224", 8, 2
MEMORY_METHODS = ("lrp", "lrp_magnitude")
PHOTOS = 16
BESIDE = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "


def build_parser() -> argparse.ArgumentParser:
    parser = commandline.parser(__doc__, "python benchmarks/explain.py --batch 2 --targets 2 --rounds 1")
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name")
    parser.add_argument("--weights", metavar="FILE", help="safetensors file; random weights without")
    parser.add_argument("--batch", type=commandline.positive, default=8, metavar="B", help="images")
    parser.add_argument("--targets", type=commandline.positive, nargs="+", default=[1, 2, 10], metavar="K",
                        help="targets an image (default: 1 2 10)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME",
                        help="(default: all)")
    parser.add_argument("--rounds", type=commandline.positive, default=5, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--memory", action="store_true",
                        help=f"also the peak memory of {MEMORY_MODEL} at B = {MEMORY_BATCH}, K = {MEMORY_TARGETS}")
    parser.add_argument("--precision", type=Path, metavar="DIR",
                        help=f"also how far float16 products move the maps of {PHOTOS} photos found below a folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write all this as Markdown")
    return parser


def load(name: str, weights: str | None) -> nn.Module:
    if weights is None:
        return timm.create_model(name).eval()
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=weights)).eval()


# ---- time

def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def cost(explanation: Callable[[], object], forward: Callable[[], object], rounds: int) -> float:
    """Median over rounds of a call's time in forward passes."""
    explanation()
    ratios = []
    for _ in range(rounds):
        before, call, after = seconds(forward), seconds(explanation), seconds(forward)
        ratios.append(2 * call / (before + after))
    return statistics.median(ratios)


def costs(model: nn.Module, args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Return a row for each method, and for what other packages have like it, and remarks on these."""
    images = torch.randn(args.batch, 3, *model.patch_embed.img_size)
    targets = {count: torch.randint(0, model.num_classes, (args.batch, count)) for count in args.targets}

    @torch.inference_mode()
    def forward() -> None:
        model(images)

    forward()
    rows, remarks = [], []
    print(f"{args.model}, B = {args.batch}, one thread, forward {seconds(forward):.3f} s CPU; forward passes per map")
    print(f"{'':<30}" + "".join(f"{f'K = {count}':>10}" for count in targets))

    def measure(name: str, explain: Callable[[Tensor], object]) -> None:
        found = {count: cost(lambda: explain(chosen), forward, args.rounds) / count
                 for count, chosen in targets.items()}
        rows.append({"": name} | {f"K = {count}": number(value, 2) for count, value in found.items()})
        print(f"{name:<30}" + "".join(f"{value:>10.2f}" for value in found.values()), flush=True)

    for method in args.methods:
        measure(method, lambda chosen: relevance(model, images, chosen, method))
        for peer in PEERS:
            if peer.ours != method:
                continue
            explain = prepared(peer, model, images)
            if isinstance(explain, str):
                print(f"{BESIDE}{peer.name}: {explain}")
            else:
                measure(f"{BESIDE}{peer.name}", explain)
                remarks.append(f"{peer.name} ({version(peer.package)}), beside `{peer.ours}`: {peer.difference}.")
    return rows, remarks


# ---- memory

def memory(seed: int) -> list[dict]:
    """Return the peak memory of each method, each in a process of its own, as a process never forgets its peak."""
    rows = []
    for method in MEMORY_METHODS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            peak = process.submit(peak_memory, method, seed).result()
        rows.append({"": method, "peak memory, GiB": number(peak, 2)})
        print(f"{MEMORY_MODEL}, B = {MEMORY_BATCH}, K = {MEMORY_TARGETS}, {method}: peak {peak:.2f} GiB", flush=True)
    return rows


def peak_memory(method: str, seed: int) -> float:
    """Explain once; return the most that this process ever held, weights and libraries included, in GiB."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = load(MEMORY_MODEL, None)
    images = torch.randn(MEMORY_BATCH, 3, *model.patch_embed.img_size)
    relevance(model, images, torch.randint(0, model.num_classes, (MEMORY_BATCH, MEMORY_TARGETS)), method)
    unit = 1 if sys.platform == "darwin" else 2**10  # of bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


# ---- precision

def precision(model: nn.Module, args: argparse.Namespace) -> list[dict]:
    """Return how far float16 factors of matrix products move each method's maps, whether or not it offers them."""
    images = photos(args.precision, model)
    with torch.inference_mode():
        predicted = model(images).argmax(1)
    targets = torch.stack([predicted, torch.randint(0, model.num_classes, predicted.shape)], 1)
    rows = []
    print(f"distance of maps in float16 from float32: {len(images)} photos, the predicted class and a random one")
    for method in args.methods:
        exact = relevance(model, images, targets, method).flatten(2)
        with HalfProducts():
            half = relevance(model, images, targets, method).flatten(2)
        distance = ((half - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()
        distance = distance[~distance.isnan()]  # a map that is 0 has no scale
        median, worst = percent(float(distance.median()), 2), percent(float(distance.max()), 2)
        rows.append({"": method, "median": median, "worst": worst})
        print(f"{method:<30}{median:>10}{worst:>10}", flush=True)
    return rows


def photos(folder: Path, model: nn.Module) -> Tensor:
    """Return photos (16, 3, H, W) as the model takes them, spread evenly over all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if len(files) < PHOTOS:
        raise UsageError(f"--precision {folder} holds {len(files)} images; expected {PHOTOS} or more, in any subfolder")
    transform = evaluation_transform(timm.data.resolve_model_data_config(model))
    return torch.stack([transform(open_image(path)) for path in files[::len(files) // PHOTOS][:PHOTOS]])


# ---- all of it

def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = load(args.model, args.weights).requires_grad_(False)  # saves other packages the weights' gradients
    rows, remarks = costs(model, args)
    parts = [f"""# What explanations cost

    {command_of(args)}

torch {torch.__version__}, timm {timm.__version__}, one CPU thread.

## Time

Forward passes per map: {args.model} ({'random' if args.weights is None else 'trained'} weights), B = {args.batch},
K targets an image, float32; the median of {args.rounds} rounds of CPU time. Under a method, what other packages have
like it, measured beside it.

{markdown_table(rows, align='l' + 'r' * len(args.targets))}
""", *(f"- {remark}\n" for remark in remarks)]
    if args.memory:
        parts.append(f"""
## Memory

Peak of the whole process, {MEMORY_MODEL}, B = {MEMORY_BATCH}, K = {MEMORY_TARGETS}, weights and libraries included.

{markdown_table(memory(args.seed), align='lr')}""")
    if args.precision:
        parts.append(f"""
## float16

Relative distance (L2) of each map to float32's when matrix products take float16 factors: {PHOTOS} photos, the
predicted class and a random one. `relevance(..., precision="float16")` offers it to methods that stay within 2 %.

{markdown_table(precision(model, args), align='lrr')}""")
    if args.out:
        write_text(args.out, "".join(parts))


def command_of(args: argparse.Namespace) -> str:
    """Return the command that writes the document, with places that differ from one machine to the next as words."""
    default, given = vars(build_parser().parse_args([])), ["python benchmarks/explain.py"]
    for name, value in vars(args).items():
        if name in ("weights", "precision") and value is not None:
            value = {"weights": "FILE", "precision": "PHOTOS"}[name]
        if value == default[name]:
            continue
        words = [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
        given.append(" ".join([f"--{name}", *words]))
    return " ".join(given)


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
