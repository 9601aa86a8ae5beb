"""Time training steps of models with random weights in this process. Part of threads.py, which starts it.

python benchmarks/training_step.py deit_tiny_patch16_224 bundled --batch 8 --steps 3
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

from common.threads import prepare_threads

CLASSES = 12


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="timm names, or bundled")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not counted")
    parser.add_argument("--prepare-threads", action="store_true", help="set the threads as the commands do")
    return parser


def main() -> None:
    """Print, as JSON, the median wall seconds of a step of each model."""
    args = build_parser().parse_args()
    if args.prepare_threads:
        prepare_threads(None)
    print(json.dumps({name: seconds_per_step(name, args.batch, args.steps) for name in args.models}))


def seconds_per_step(name: str, batch: int, steps: int) -> float:
    """Return the median wall seconds of a step: forward, backward and AdamW of all parameters, on random images."""
    import timm  # torch is imported here, after its threads were prepared
    import torch

    torch.manual_seed(0)
    timm_name, options = architecture(name)
    model = timm.create_model(timm_name, num_classes=CLASSES, **options).train()
    images = torch.randn(batch, 3, *model.patch_embed.img_size)
    labels = torch.randint(0, CLASSES, (batch,))
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - start

    step()
    return statistics.median(step() for _ in range(steps))


def architecture(name: str) -> tuple[str, dict]:
    """Return the timm name and the keyword options of a model."""
    if name != "bundled":
        return name, {}
    config = json.loads((ROOT / "models" / "bundled" / "config.json").read_text(encoding="utf-8"))
    return config["timm_name"], config["kwargs"]


if __name__ == "__main__":
    main()
