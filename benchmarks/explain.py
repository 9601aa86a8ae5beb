"""What an explanation costs: forward passes per map, and peak memory, for each method.

    python benchmarks/explain.py --weights FILE      DeiT-Tiny 224, B = 8, K = 1, 2, 10, one thread
    python benchmarks/explain.py --model vit_tiny_patch16_224 --batch 2 --targets 2 --rounds 1

A cost is the time of a call divided by its K and by the time of plain forward passes of the same
batch taken right before and after it, in the same process; the median over rounds. CPU time is
counted, with one thread, so that waiting for other processes is not; they still slow a shared core.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch

from explain import METHODS, relevance


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name")
    parser.add_argument("--weights", help="safetensors file; random weights without")
    parser.add_argument("--batch", type=int, default=8, help="images B")
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 10], help="targets K an image")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(name: str, weights: str | None) -> torch.nn.Module:
    if weights is None:
        return timm.create_model(name).eval()
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=weights)).eval()


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def cost(explanation, forward, rounds: int) -> float:
    """Median over rounds of a call's time in forward passes."""
    explanation()
    ratios = []
    for _ in range(rounds):
        before, call, after = seconds(forward), seconds(explanation), seconds(forward)
        ratios.append(2 * call / (before + after))
    return statistics.median(ratios)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    model = load(arguments.model, arguments.weights)
    images = torch.randn(arguments.batch, 3, *model.patch_embed.img_size)

    def forward():
        with torch.inference_mode():
            model(images)

    forward()
    print(f"{arguments.model}, B = {arguments.batch}, one thread, forward {seconds(forward):.3f} s CPU; "
          "forward passes per map")
    print(f"{'method':<20}" + "".join(f"{f'K = {count}':>10}" for count in arguments.targets))
    for method in arguments.methods:
        cells = []
        for count in arguments.targets:
            targets = torch.randint(0, model.num_classes, (arguments.batch, count))
            whole = cost(lambda: relevance(model, images, targets, method), forward, arguments.rounds)
            cells.append(f"{whole / count:>10.2f}")
        print(f"{method:<20}" + "".join(cells), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
