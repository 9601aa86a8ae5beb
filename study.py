"""Run the whole experiment: train every method and seed, measure what the models look at, say what holds."""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np

import commandline
import compare
import comparison
import evidence
import train
from data.datasets import ImageData
from errors import UsageError
from evidence import Study
from explain.metrics import spearman
from explain.perturbation import REMOVALS
from measures import MEASUREMENTS, Subject, chosen_measurements, has_option, load_maps, measured, measured_depth
from models.adapt import Settings, parse_settings
from models.backbone import architecture
from models.runs import Run, load_run
from report.claims import claims_markdown
from report.findings import Section, findings_markdown
from report.overview import verdict_overview
from report.results import Observation, Results, write_results
from report.tables import number, write_text
from report.verdicts import ONE_SEED

PICTURE_IMAGES = 64     # images behind the numbers beside the picture of each split
WORTH = 2               # images a rule, among those worth a look


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of study.py."""
    parser = commandline.parser(__doc__, "python study.py")
    commandline.add_data(parser, several=True)
    commandline.add_model(parser)
    commandline.add_relevance(parser, several=True, options=False)
    group = parser.add_argument_group("experiment")
    group.add_argument("--methods", nargs="+", default=["linear", "dora"], metavar="M",
                       help="two or more; adapters take settings, as in train.py (default: linear dora)")
    group.add_argument("--seeds", type=commandline.positive, default=1, metavar="N", help="training seeds 0 to N - 1")
    group.add_argument("--epochs", type=commandline.positive, metavar="N",
                       help="of every method but linear (default: train.py's)")
    group.add_argument("--label-smoothing", type=commandline.share_below_one, default=0.1, metavar="X",
                       help="the same for every method")
    group = parser.add_argument_group("measurements")
    group.add_argument("--metrics", nargs="+", default=["all"], choices=["all", "quick", *MEASUREMENTS], metavar="NAME",
                       help=f"all, quick, or some of {', '.join(MEASUREMENTS)} (default: all)")
    group.add_argument("--images", type=commandline.positive, metavar="N",
                       help="images a split for likeness and scatter of maps (default: all)")
    group.add_argument("--metric-images", type=commandline.positive, default=100, metavar="N",
                       help="images of val for what is dear: perturbation, mosaics, noise, depth")
    group.add_argument("--others", type=commandline.positive, default=3, metavar="N", help="random classes an image")
    group.add_argument("--removal", nargs="+", default=["mean"], choices=REMOVALS, metavar="R",
                       help=f"what takes the place of removed patches: {', '.join(REMOVALS)} (default: mean)")
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group.add_argument("--images-at-once", type=commandline.positive, default=16, metavar="N", help="images explained together")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("results/study"), metavar="DIR", help="(default: %(default)s)")
    group.add_argument("--overwrite", action="store_true", help="replace runs and comparisons of other settings in --out")
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check, then study every data set; with several, say at the end what holds on which."""
    methods = methods_of(args)
    comparison.require_explainable(architecture(commandline.backbone_of(args)), f"--model {args.model}")
    commandline.check_writable(args.cache, "--cache")
    sources = [alone(args, spec) for spec in dict.fromkeys(args.data)]
    loaded = [commandline.data_of(one) for one in sources]  # all are checked before anything slow starts
    names = [Path(data.name).name for data in loaded]
    if len(set(names)) < len(names):
        raise UsageError(f"--data {' '.join(args.data)}: two have one name; rename a folder")
    commandline.check_writable(args.out)
    found = {}
    for one, data, name in zip(sources, loaded, names):
        out = args.out / name if len(sources) > 1 else args.out
        found[name] = study(argparse.Namespace(**{**vars(one), "out": out}), data, methods)
    if len(found) > 1:
        rows = {f"{name}: {a} against {b}": claims for name, groups in found.items() for (a, b), claims in groups.items()}
        verdict_overview(args.out / "verdicts.png", rows, "What holds on which data")
        print(f"{args.out}: verdicts.png, over all data sets")
    if args.seeds == 1:
        print(ONE_SEED)


def alone(args: argparse.Namespace, spec: str) -> argparse.Namespace:
    """Return the arguments with one data set."""
    one = copy.copy(args)
    one.data = spec
    return one


def methods_of(args: argparse.Namespace) -> list[Settings]:
    """Return the methods asked for; raises UsageError for fewer than two, or for one named twice."""
    methods = [parse_settings(text) for text in args.methods]
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise UsageError(f"--methods {' '.join(args.methods)}: give two or more different methods to compare")
    return methods


def study(args: argparse.Namespace, data: ImageData, methods: list[Settings]) -> dict:
    """Study one data set; return its claims by pair of methods."""
    labels, seeds, device = [one.label() for one in methods], list(range(args.seeds)), commandline.device_of(args.device)
    runs, subjects, observations = {}, {}, []
    for seed in seeds:
        for settings in methods:
            run = runs[settings.label(), seed] = train_one(args, data, settings, seed)
            for split in explained_splits(data):
                subject = subjects[settings.label(), seed, split] = Subject(run, settings.label(), data, split, args, device)
                observations += measure(subject)
        print(f"== seed {seed}: measured ({seeds.index(seed) + 1} of {len(seeds)})", flush=True)
    result = Study(args.out, data, labels, methods, seeds, list(args.relevance), runs,
                   Results(with_baseline(observations)))
    look_inside(result, subjects)
    for split in explained_splits(data):
        compare_on(args, data, [runs[label, 0] for label in labels], split, "compare")
    return write(args, result, observations, subjects)


def explained_splits(data: ImageData) -> list[str]:
    return [split for split in data.splits if split.startswith("val")]


def measure(subject: Subject) -> list[Observation]:
    """Measure one run on one split, or find it measured: everything on val, on other splits the maps alone."""
    args, rows = subject.args, []
    names = chosen_measurements(args.metrics) if subject.split_name == "val" else ["maps"]
    for number_of, name in enumerate(names):
        for relevance in [*args.relevance, *(["random"] if name == "perturbation" else [])]:
            print(f"-- {subject.method}, seed {subject.run.config['seed']}, {subject.split_name}: {name} of {relevance} "
                  f"({number_of + 1} of {len(names)})", flush=True)
            rows += measured(subject, name, relevance)[0]
    return list(dict.fromkeys(rows))  # probabilities come with every relevance


def with_baseline(observations: list[Observation]) -> list[Observation]:
    """Add SRG above the same model's random baseline, image by image."""
    baseline = {(o.split, o.method, o.seed, o.image): o.value for o in observations
                if o.metric == "srg" and o.relevance == "random"}
    above = [Observation(o.data, o.split, o.method, o.seed, o.image, o.relevance, o.target, "srg_above_random",
                         o.value - baseline[o.split, o.method, o.seed, o.image])
             for o in observations if o.metric == "srg" and o.relevance != "random"]
    return observations + above


def look_inside(result: Study, subjects: dict) -> None:
    """Measure attention and relevance by depth of every fine-tuned backbone against the one before."""
    before = next((s for s in result.kinds if s.method == "linear"), None)
    name = next((r for r in result.relevances if has_option(r, "layers")), None)
    if before is None:  # only a linear probe has the backbone as it was, and a head for these classes
        print("-- no depth profiles: they compare with a linear probe, which is not among --methods")
        return
    for (method, seed, split), subject in subjects.items():
        if split == "val" and method != before.label():
            print(f"-- {method}, seed {seed}: depth", flush=True)
            result.depth[method, seed] = measured_depth(subjects[before.label(), seed, split], subject, name)


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


def arguments_for(script, own: list[str], args: argparse.Namespace) -> argparse.Namespace:
    """Return another script's arguments: its own, then whatever options it shares with the study but for the folder."""
    given = script.build_parser().parse_args(own)
    shared = {key: value for key, value in vars(args).items() if key in vars(given) and key not in ("out", "relevance")}
    return argparse.Namespace(**{**vars(given), **shared})


def compare_on(args: argparse.Namespace, data: ImageData, runs: list[Run], split: str, folder: str,
               pick: list[str] | None = None) -> None:
    """Draw the picture of the runs on one split, of a sample or of images picked by name."""
    out = args.out / (folder + ("" if split == "val" else f"-{split}"))
    own = [*(str(run.folder) for run in runs), "--out", str(out), "--split", split, "--relevance", args.relevance[0]]
    given = arguments_for(compare, own, args)
    given.images, given.pick = PICTURE_IMAGES, pick
    print(f"== {folder} on {split}", flush=True)
    compare.compare(runs, data, given, commandline.device_of(args.device))


# ---- what is said

def write(args: argparse.Namespace, result: Study, observations: list[Observation], subjects: dict) -> dict:
    """Write results.csv, claims.md, findings.md and their figures; return the claims."""
    groups = evidence.claims_of(result)
    facts = evidence.facts_of(result, args.model, args.data_seed, result.data.warnings)
    runs_evidence = [evidence.evidence_of(result, method) for method in result.methods]
    accuracies = [evidence.accuracy_row(result, method, seed, split) for method in result.methods for seed in result.seeds
                  for split in result.runs[method, seed].summary["accuracy"]]
    write_text(args.out / "claims.md", claims_markdown(groups, facts, runs_evidence, accuracies))
    sections = [*evidence.sections_of(result, groups), *worth_a_look(args, result, subjects)]
    write_text(args.out / "findings.md", findings_markdown(
        f"What fine-tuning did: {Path(result.data.name).name}", evidence.summary_of(result, groups), sections, args.out, facts))
    count = write_results(args.out / "results.csv", with_baseline(observations))
    print(f"{args.out}: findings.md, claims.md, results.csv ({count} rows), and the picture in {args.out}/compare/grid.png")
    for found in groups.values():
        for claim in found:
            print(f"({claim.letter}) {claim.text}: {claim.first} against {claim.second}; {claim.verdict}")
    return groups


def worth_a_look(args: argparse.Namespace, result: Study, subjects: dict) -> list[Section]:
    """Choose images by rule from the first two methods, first seed; name and draw them."""
    first, second = result.methods[:2]
    seed, name = result.seeds[0], result.relevances[0]
    before, after = (load_maps(measured(subjects[method, seed, "val"], "maps", name)[1]) for method in (first, second))
    same = spearman(before.maps[:, 0], after.maps[:, 0])
    right = [found.probability.argmax(1) == found.targets[:, 0] for found in (before, after)]
    images = subjects[first, seed, "val"].images(args.images)
    names = subjects[first, seed, "val"].names(images)
    order = np.argsort(same, kind="stable")
    draw = np.random.default_rng(args.data_seed).permutation(len(names))
    rules = {"maps differ most": order, "maps differ least": order[::-1],
             f"right in {first}, wrong in {second}": order[(right[0] & ~right[1])[order]],
             f"wrong in {first}, right in {second}": order[(~right[0] & right[1])[order]], "drawn at random": draw}
    rows, picked = [], []
    for rule, candidates in rules.items():
        for i in [i for i in candidates.tolist() if names[i] not in picked][:WORTH]:
            picked.append(names[i])
            rows.append({"image": names[i], "chosen because": rule, "likeness of the two maps (Spearman)": number(same[i]),
                         f"probability, {first}": number(before.probability[i, before.targets[i, 0]]),
                         f"probability, {second}": number(after.probability[i, after.targets[i, 0]])})
    compare_on(args, result.data, [result.runs[method, seed] for method in (first, second)], "val", "worth-a-look", picked)
    return [Section("Images worth a look", [f"Chosen by rule from {len(names)} images, {first} against {second}, {name}; what "
                                            f"is chosen for being extreme is no evidence for what is usual."],
                    rows, args.out / "worth-a-look" / "grid.png", "The images of the table, in the order of their names.")]


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
