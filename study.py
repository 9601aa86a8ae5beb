"""Run the whole experiment: train every method, compare what the models look at, say what holds."""

import argparse
import csv
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

import commandline
import compare
import comparison
import train
from data.datasets import ImageData
from errors import UsageError
from models.adapt import Settings, parse_settings
from models.backbone import architecture
from models.runs import Run, load_run
from report.claims import Evidence, claims, claims_markdown, regions_markdown
from report.tables import percent, write_text

SCENE_IMAGES, PHOTO_IMAGES = 200, 64  # explained images a split; a drawn scene costs milliseconds


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of study.py."""
    parser = commandline.parser(__doc__, "python study.py")
    commandline.add_data(parser)
    commandline.add_model(parser)
    commandline.add_relevance(parser)
    group = parser.add_argument_group("experiment")
    group.add_argument("--methods", nargs="+", default=["linear", "dora"], metavar="M",
                       help="two or more; adapters take settings, as in train.py (default: linear dora)")
    group.add_argument("--seeds", type=commandline.positive, default=1, metavar="N", help="training seeds 0 to N - 1")
    group.add_argument("--epochs", type=commandline.positive, metavar="N",
                       help="of every method but linear (default: train.py's)")
    group.add_argument("--label-smoothing", type=commandline.share_below_one, default=0.1, metavar="X",
                       help="the same for every method")
    group.add_argument("--images", type=commandline.positive, metavar="N",
                       help=f"explained images a split (default: {PHOTO_IMAGES}, or {SCENE_IMAGES} drawn scenes)")
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("results/study"), metavar="DIR", help="(default: %(default)s)")
    group.add_argument("--overwrite", action="store_true", help="replace runs and comparisons of other settings in --out")
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check, train what is missing, compare on every split, write the claims."""
    methods = methods_of(args)
    commandline.relevance_options(args)  # refuses before anything is loaded
    comparison.require_explainable(architecture(commandline.backbone_of(args)), f"--model {args.model}")
    commandline.check_writable(args.cache, "--cache")
    data = commandline.data_of(args)
    commandline.check_writable(args.out)
    sections, groups, evidence, accuracies = [], {}, [], []
    for seed in range(args.seeds):
        runs = [train_one(args, data, settings, seed) for settings in methods]
        rows = {split: compare_on(args, data, runs, split, seed) for split in data.splits if split.startswith("val")}
        found = [evidence_of(run, label, rows["val"][label]) for run, label in zip(runs, rows["val"])]
        groups |= {title_of(a.label, b.label, seed, args.seeds): claims(a, b, judged(x, y))
                   for (a, x), (b, y) in combinations(list(zip(found, methods)), 2)}
        evidence += found
        accuracies += [row for run, label in zip(runs, rows["val"]) for row in accuracy_rows(run, label, seed)]
        sections += [regions_markdown(f"{split}, seed {seed}", part, comparison.REGIONS)
                     for split, part in rows.items() if args.data == "scenes"]
    write_text(args.out / "claims.md", claims_markdown(groups, facts_of(args, data), evidence, accuracies, sections))
    print(f"{args.out}: claims.md, and the picture in {folder_of(args, 'val', 0)}/grid.png")
    for title, rows_of_claims in groups.items():
        for claim in rows_of_claims:
            print(f"({claim.letter}) {claim.text}: {claim.first} against {claim.second}; {claim.verdict}")


def methods_of(args: argparse.Namespace) -> list[Settings]:
    """Return the methods asked for; raises UsageError for fewer than two, or for one named twice."""
    methods = [parse_settings(text) for text in args.methods]
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise UsageError(f"--methods {' '.join(args.methods)}: give two or more different methods to compare")
    return methods


def arguments_for(script, own: list[str], args: argparse.Namespace) -> argparse.Namespace:
    """Return another script's arguments: its own, then whatever options it shares with the study but for the folder."""
    given = script.build_parser().parse_args(own)
    shared = {key: value for key, value in vars(args).items() if key in vars(given) and key != "out"}
    return argparse.Namespace(**{**vars(given), **shared})


def train_one(args: argparse.Namespace, data: ImageData, settings: Settings, seed: int) -> Run:
    """Train one method with one seed, or reuse the finished run in its folder."""
    name = settings.label().replace(":", "-").replace(",", "-").replace("=", "")
    out = args.out / f"{name}-seed{seed}"
    own = ["--method", settings.label(), "--seed", str(seed), "--out", str(out)]
    given = arguments_for(train, own, args)
    given.epochs = None if settings.method == "linear" else args.epochs
    print(f"== train {settings.label()}, seed {seed}", flush=True)
    train.train(given, data)
    return load_run(out, args.weights)


def compare_on(args: argparse.Namespace, data: ImageData, runs: list[Run], split: str, seed: int) -> dict[str, list[dict]]:
    """Compare the runs on one split; return the rows of comparison.csv by run, numbers as floats."""
    out = folder_of(args, split, seed)
    own = [*(str(run.folder) for run in runs), "--out", str(out), "--split", split]
    given = arguments_for(compare, own, args)
    given.images = args.images or (SCENE_IMAGES if args.data == "scenes" else PHOTO_IMAGES)
    print(f"== compare on {split}", flush=True)
    compare.compare(runs, data, given, commandline.device_of(args.device))
    rows: dict[str, list[dict]] = {}
    for row in read_csv(out / "comparison.csv"):
        rows.setdefault(row["run"], []).append(row)
    return rows


def folder_of(args: argparse.Namespace, split: str, seed: int) -> Path:
    """Return a comparison's folder: compare/, compare-val_shuffled/, and with a seed behind them from the second on."""
    return args.out / ("compare" + ("" if split == "val" else f"-{split}") + (f"-seed{seed}" if seed else ""))


def read_csv(path: Path) -> list[dict]:
    """Read a CSV file of ours: numbers as floats, empty fields as NaN."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str):
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


def evidence_of(run: Run, label: str, rows: list[dict]) -> Evidence:
    """Gather what a run contributes to the claims, from the files that it and its comparison wrote."""
    predictions = read_csv(run.folder / "predictions.csv")

    def column(split: str, name: str) -> np.ndarray:
        return np.array([row[name] for row in predictions if row["split"] == split])

    def explained(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    return Evidence(label, column("val", "probability"), column("val", "correct") == 1, column("train", "correct") == 1,
                    explained("spearman_true_other"), explained("cosine_true_other"), explained("entropy_other"),
                    float(np.median(np.concatenate([explained("noise_true"), explained("noise_other")]))))


def judged(first: Settings, second: Settings) -> bool:
    """Tell whether the earlier study's claims are about these two: a linear probe and DoRA."""
    return (first.method, second.method) == ("linear", "dora")


def title_of(first: str, second: str, seed: int, seeds: int) -> str:
    return f"{first} against {second}" + (f", seed {seed}" if seeds > 1 else "")


def accuracy_rows(run: Run, label: str, seed: int) -> list[dict]:
    return [{"run": label, "seed": seed, "split": split, "images": found["images"], "accuracy": percent(found["accuracy"]),
             "95 % (Wilson)": f"{percent(found['low'])} to {percent(found['high'])}", "chosen epoch": run.summary["chosen_epoch"]}
            for split, found in run.summary["accuracy"].items()]


def facts_of(args: argparse.Namespace, data: ImageData) -> list[str]:
    """Say what was compared, so that the file can be read alone."""
    sizes = ", ".join(f"{len(split)} in {name}" for name, split in data.splits.items() if name != "test")
    return [f"data: {data.name}, {len(data.class_names)} classes; images: {sizes}; data seed {args.data_seed}",
            f"model: {args.model}; methods: {', '.join(args.methods)}; training seeds: {args.seeds}",
            f"relevance: {compare.relevance_name(args)}", *(f"note: {warning}" for warning in data.warnings)]


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
