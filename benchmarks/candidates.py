"""What was tried for a method of our own: candidates chosen on one half of the photos, reported on the other.

    python benchmarks/candidates.py RUN --out docs/candidates.md          an hour on one thread

All are made of parts that come from one recorded forward pass. A sum of maps is of maps that were each divided by
their sum of magnitudes. The bar is the sum of three methods; the best few and the bar are measured on the half that
chose nothing.
"""

import argparse
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from methods import BATCH, Photos, add_photos, with_interval  # beside this file; it finds the project's folders

import commandline
from explain import relevance
from explain.aggregate import TokenRow
from explain.gradients import Way, attention_gradients, patch_gradient
from explain.start import class_weights, head_rows
from explain.vit import Network
from report.statistics import paired
from report.tables import markdown_table, number, write_text

REFERENCE, BAR, REPORTED = "lrp_magnitude", "lrp_magnitude + AttnLRP + CP-LRP", 3
ATTNLRP = Way(constant_deviation=True, secant=True, halved=True)
CP_LRP = Way(constant_deviation=True, secant=True, constant_attention=True)
Candidate = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]


def method(name: str, **options) -> Candidate:
    return lambda model, images, targets: relevance(model, images, targets, name, **options)


def sum_of(*candidates: Candidate) -> Candidate:
    def compute(model, images, targets):
        maps = [one(model, images, targets) for one in candidates]
        return sum(one / one.abs().sum((-2, -1), keepdim=True) for one in maps)
    return compute


def smoothed(candidate: Candidate) -> Candidate:
    kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0]))[None, None] / 16

    def compute(model, images, targets):
        maps = candidate(model, images, targets)
        return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel)
    return compute


def graph(way: Way, contrast: str = "none") -> Candidate:
    """Chefer's aggregation over blocks, with a changed gradient times A for the relevance of attention."""
    def compute(model, images, targets):
        network = Network(model)
        with torch.no_grad():
            record = network.record(images)
            rows, row = head_rows(network, class_weights(record.logits, targets, contrast)), TokenRow(record, 1)
            for block, gradient in zip(record.from_last(), attention_gradients(network, record, rows, way=way)):
                row.descend(block, (gradient * block.attention).clamp_(min=0))
        return row.result(1)
    return compute


def by_block(way: Way, contrast: str, blocks: slice, positive: bool = False) -> Candidate:
    """Relevance at the tokens of some blocks alone, or its positive part."""
    def compute(model, images, targets):
        network = Network(model)
        with torch.no_grad():
            record = network.record(images)
            at_blocks: list[Tensor] = []
            patch_gradient(network, record, head_rows(network, class_weights(record.logits, targets, contrast)), way,
                           at_blocks)
        chosen = torch.stack(at_blocks[::-1])[blocks]
        return (chosen.clamp(min=0) if positive else chosen).mean(0).unflatten(-1, record.grid)
    return compute


GAMMA = Way(constant_deviation=True, secant=True, constant_attention=True, gamma=0.05)
CANDIDATES: dict[str, Candidate] = {
    REFERENCE: method("lrp_magnitude"),
    "lrp_magnitude, log p": method("lrp_magnitude", contrast="log_p"),
    "AttnLRP": method("attnlrp_epsilon"),
    "AttnLRP, log p": method("attnlrp_epsilon", contrast="log_p"),
    "CP-LRP, gamma": method("cp_lrp"),
    "CP-LRP, gamma, log p": method("cp_lrp", contrast="log_p"),
    BAR: sum_of(method("lrp_magnitude", contrast="log_p"), method("attnlrp_epsilon"), method("cp_lrp")),
    "lrp_magnitude + AttnLRP + CP-LRP, log p": sum_of(*(method(name, contrast="log_p") for name in
                                             ("lrp_magnitude", "attnlrp_epsilon", "cp_lrp"))),
    "graph of AttnLRP's relevance of A": graph(ATTNLRP),
    "graph of CP-LRP's relevance of A": graph(CP_LRP),
    "AttnLRP over depth": method("attnlrp_epsilon", at="depth"),
    "AttnLRP over depth, softmax": method("attnlrp_epsilon", at="depth", contrast="softmax"),
    "CP-LRP over depth": method("cp_lrp", gamma=0.0, at="depth"),
    "CP-LRP over depth, softmax": method("cp_lrp", gamma=0.0, at="depth", contrast="softmax"),
    "lrp_depth: CP-LRP over depth, gamma": method("lrp_depth"),
    "lrp_depth, contrast mean": method("lrp_depth", contrast="mean"),
    "lrp_contrast: lrp_depth, softmax": method("lrp_contrast"),
    "lrp_contrast, gamma 0.1": method("lrp_contrast", gamma=0.1),
    "lrp_contrast, without the last three blocks": by_block(GAMMA, "softmax", slice(None, -3)),
    "lrp_contrast, positive part of each block": by_block(GAMMA, "softmax", slice(None), positive=True),
    "lrp_contrast, smoothed over 3 x 3 patches": smoothed(method("lrp_contrast")),
    "lrp_contrast + lrp_magnitude": sum_of(method("lrp_contrast"), method("lrp_magnitude", contrast="log_p")),
}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    photos = Photos(args)
    chosen_on, reported_on = slice(0, photos.half), slice(photos.half, None)
    choosing = {name: measured(photos, chosen_on, candidate) for name, candidate in CANDIDATES.items()}
    order = sorted(CANDIDATES, key=lambda name: -choosing[name].mean())
    kept = list(dict.fromkeys([*order[:REPORTED], "lrp_depth: CP-LRP over depth, gamma", BAR, REFERENCE]))
    reporting = {name: measured(photos, reported_on, CANDIDATES[name]) for name in kept}
    text = document(args, photos, markdown_table([row(name, choosing) for name in order]),
                    markdown_table([row(name, reporting) | against(name, BAR, reporting) for name in kept]))
    print(text)
    if args.out:
        write_text(args.out, text)


def measured(photos: Photos, which: slice, candidate: Candidate) -> np.ndarray:
    images, targets = photos.images[which], photos.targets[which, :1]
    maps = torch.cat([candidate(photos.run.model, x, t) for x, t in zip(images.split(BATCH), targets.split(BATCH))])
    return photos.srg(maps, which)


def row(name: str, found: dict[str, np.ndarray]) -> dict:
    return {"candidate": name, "SRG": with_interval(found[name]), **against(name, REFERENCE, found)}


def against(name: str, other: str, found: dict[str, np.ndarray]) -> dict:
    key = f"less {other}"
    if name == other:
        return {key: ""}
    result = paired(found[name], found[other])
    return {key: f"{number(result.difference, 3, True)} [{number(result.low, 3, True)}, {number(result.high, 3, True)}]"}


def document(args: argparse.Namespace, photos: Photos, choosing: str, reporting: str) -> str:
    config = photos.run.config
    return f"""# A method of our own: what was tried

SRG of the predicted class (see methods.md), {config['backbone']['name']} with {photos.run.label}, validation photos of
{len(config['class_names'])} classes; means and paired differences with 95 % BCa intervals over photos. Written by

    python benchmarks/candidates.py RUN --images {args.images} --out FILE

## Chosen on {photos.half} photos

{choosing}
## Reported on {len(photos.images) - photos.half} others

{reporting}"""


def build_parser() -> argparse.ArgumentParser:
    parser = commandline.parser(__doc__, "python benchmarks/candidates.py results/sports/linear-seed0 --out docs/candidates.md")
    add_photos(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown tables")
    return parser


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
