"""The smallest worlds in which the tests know the right answer: a tiny ViT and its runs, folders of coloured images."""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from models.adapters import adapt, trainable_parameters
from models.backbone import content_hash, create_backbone, model_data_config
from models.methods import MethodSettings, parse_settings
from models.run_config import RunConfig, make_config
from models.runs import CONFIG, SUMMARY, save_trained

NAME, SIZE = "test_vit", 32  # timm's own tiny VisionTransformer: 6 blocks of width 64, patches of 16 pixels
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
LINEAR = MethodSettings()
DATA = {"spec": "photos", "fingerprint": "f", "data_seed": 0}


def write_weights(path: Path, name: str = NAME, seed: int = 0) -> Path:
    """Write random weights of a timm model, as a hub would hold them."""
    torch.manual_seed(seed)
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    return path


def colour_image(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return a noisy image of one colour; no two seeds give the same image."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def colour_folder(root: Path, train: int = 12, val: int = 6, classes=tuple(COLOURS), val_name: str = "val") -> Path:
    """Write an image folder with one class a colour; every image is another one."""
    seed = 0
    for split, count in (("train", train), (val_name, val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed += 1
                colour_image(COLOURS.get(name, (128, 128, 128)), seed).save(folder / f"{i:02d}.png")
    return root


def same_state(a: dict, b: dict) -> bool:
    """Tell whether two state dicts hold the same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def config_of(spec, settings=LINEAR, **changes) -> RunConfig:
    """Return the config of a run with three classes on some photos, with changes."""
    model = create_backbone(spec, 3)
    values = {
        "settings": settings,
        "backbone": spec,
        "backbone_hash": content_hash(model),
        "data": DATA,
        "seed": 0,
        "data_config": model_data_config(model),
        "class_names": ["a", "b", "c"],
        "recipe": {"epochs": 3},
    }
    return make_config(**(values | changes))


def finish(folder, spec, text="linear") -> torch.nn.Module:
    """Write a finished run whose trained part is far from where it started; return the model."""
    settings = parse_settings(text)
    torch.manual_seed(0)
    model = adapt(create_backbone(spec, 3), settings).eval()
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config_of(spec, settings).to_json()))
    save_trained(folder, model, settings)
    (folder / SUMMARY).write_text("{}")
    return model
