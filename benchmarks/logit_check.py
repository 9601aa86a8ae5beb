"""What `relevance` spends on comparing the model's own logits with the traced ones (explain/logit_check.py).

    OMP_NUM_THREADS=1 python benchmarks/logit_check.py
    OMP_NUM_THREADS=1 python benchmarks/logit_check.py --batch 1 --targets 2

CPU time of one thread within the same calls, as the difference between calls with and without it is lost in the noise
of a busy machine; the median over rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm  # noqa: E402
import torch  # noqa: E402

from explain import METHODS, compute, relevance  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm name; its weights are random")
    parser.add_argument("--batch", type=int, default=16, help="images per call (default: 16)")
    parser.add_argument("--targets", type=int, default=1, help="targets per image (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="calls per method (default: 5)")
    parser.add_argument("--methods", nargs="+", default=["lrp_depth", "lrp_blend"], choices=list(METHODS))
    return parser


def share(call: Callable[[], object]) -> float:
    """Return the CPU time of the comparison in a call, relative to the rest of the call."""
    check, spent = compute.check_logits, []

    def timed(*arguments: object) -> None:
        start = time.process_time()
        check(*arguments)
        spent.append(time.process_time() - start)

    compute.check_logits = timed
    start = time.process_time()
    try:
        call()
    finally:
        compute.check_logits = check
    return sum(spent) / (time.process_time() - start - sum(spent))


def main() -> None:
    args = build_parser().parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model(args.model).eval()
    images = torch.randn(args.batch, 3, *model.patch_embed.img_size)
    targets = torch.randint(0, model.num_classes, (args.batch, args.targets))
    for method in args.methods:

        def call(method: str = method) -> object:
            return relevance(model, images, targets, method)

        call()
        shares = [share(call) for _ in range(args.rounds)]
        print(f"{method:<24}{100 * statistics.median(shares):.1f} % of the rest of the call", flush=True)


if __name__ == "__main__":
    main()
