"""Train with a plain loop, the reference of benchmarks/train.py: small batches, SGD, all blocks run in every epoch.

    python benchmarks/plain_loop.py --data photos/ --model deit_tiny_patch16_224 --method linear

It imports nothing of this project: images come from torchvision, the model from timm, DoRA from peft. After every epoch
it prints a line of JSON: the epoch, the validation accuracy and the CPU seconds since the process started.
"""

import argparse
import json
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

LATE_LINEARS = r"blocks\.(9|10|11)\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/ or valid/")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", help="safetensors file (default: the model hub's)")
    parser.add_argument("--method", choices=("linear", "dora"), required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--targets", default=LATE_LINEARS, help="regular expression of the layers that DoRA adapts")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def loaders(data: Path, model: nn.Module, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return loaders of training and validation images, preprocessed by the model's data config."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    val = next(data / name for name in ("val", "valid") if (data / name).is_dir())
    train = ImageFolder(data / "train", transform)
    return DataLoader(train, batch_size, shuffle=True), DataLoader(ImageFolder(val, transform), batch_size)


def prepared(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """Freeze all but the head and, for DoRA, its adapters (rank 8, alpha 16, as in train.py)."""
    if args.method == "dora":
        import peft  # takes seconds, which the other method does not need

        model = peft.get_peft_model(
            model, peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules=args.targets)
        )
        head = model.get_base_model().get_classifier()
    else:
        model.requires_grad_(False)
        head = model.get_classifier()
    head.requires_grad_(True)
    return model


def main(args: argparse.Namespace) -> None:
    """Train and print."""
    torch.manual_seed(args.seed)
    overlay = dict(file=args.weights) if args.weights else None
    classes = sum(folder.is_dir() for folder in (args.data / "train").iterdir())
    model = timm.create_model(args.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes)
    train, val = loaders(args.data, model, args.batch_size)
    model = prepared(model, args)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], args.learning_rate, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    for epoch in range(1, args.epochs + 1):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in val:
                right += (model(images).argmax(1) == labels).sum().item()
        print(
            json.dumps({"epoch": epoch, "accuracy": right / len(val.dataset), "seconds": time.process_time()}),
            flush=True,
        )


if __name__ == "__main__":
    main(build_parser().parse_args())
