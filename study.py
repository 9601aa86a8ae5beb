"""Run the whole experiment: train every method and seed, measure what the models look at, say what holds."""

import argparse
import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

import compare
import train
from cli import commandline
from commands import study_reports as chapters
from common import processes
from common.errors import UsageError
from common.tables import number, write_text
from data.datasets import ImageData
from evaluation import study_results as evidence
from evaluation.explained import require_explainable
from evaluation.measurement_cache import Task, is_measured, measured, measured_depth, tasks
from evaluation.measurements import MEASUREMENTS, Maps, Subject, depth_rows, has_option
from evaluation.metrics.faithfulness import REMOVALS
from evaluation.metrics.maps import spearman
from evaluation.observations import Observation, Results, read_results, write_results
from evaluation.statistics.claims import MAIN, claims_markdown
from evaluation.statistics.verdicts import ONE_SEED
from evaluation.study_results import Study
from models.adapters import Settings, parse_settings
from models.backbone import BackboneSpec, architecture, create_backbone
from models.runs import Run, load_run
from report.figures.verdict_overview import verdict_overview
from report.markdown import Section, findings_markdown

PICTURE_IMAGES = 64  # images behind the numbers beside the picture of each split
WORTH = 2  # images a rule, among those worth a look


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of study.py."""
    parser = commandline.parser(__doc__, "python study.py")
    commandline.add_data(parser, several=True)
    commandline.add_model(parser)
    commandline.add_relevance(parser, several=True, options=False, comparing=True)
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--methods",
        nargs="+",
        default=["linear", "dora"],
        metavar="M",
        help="two or more; adapters take settings, as in train.py (default: linear dora)",
    )
    group.add_argument("--seeds", type=commandline.positive, default=1, metavar="N", help="training seeds 0 to N - 1")
    group.add_argument(
        "--epochs", type=commandline.positive, metavar="N", help="of every method but linear (default: train.py's)"
    )
    group.add_argument(
        "--label-smoothing",
        type=commandline.share_below_one,
        default=0.1,
        metavar="X",
        help="the same for every method",
    )
    group = parser.add_argument_group("measurements")
    group.add_argument(
        "--metrics",
        nargs="+",
        default=["all"],
        choices=["all", "quick", *MEASUREMENTS],
        metavar="NAME",
        help=f"all, quick, or some of {', '.join(MEASUREMENTS)} (default: all)",
    )
    group.add_argument(
        "--images",
        type=commandline.positive,
        metavar="N",
        help="images a split for likeness and scatter of maps (default: all)",
    )
    group.add_argument(
        "--metric-images",
        type=commandline.positive,
        default=100,
        metavar="N",
        help="images of val for what is dear: perturbation, mosaics, noise, depth",
    )
    group.add_argument("--others", type=commandline.positive, default=3, metavar="N", help="random classes an image")
    group.add_argument(
        "--removal",
        nargs="+",
        default=["mean"],
        choices=REMOVALS,
        metavar="R",
        help=f"what takes the place of removed patches: {', '.join(REMOVALS)} (default: mean)",
    )
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group.add_argument(
        "--images-at-once",
        type=commandline.positive,
        metavar="N",
        help="images explained together (default: 16, on a GPU up to 128)",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=Path("results/study"), metavar="DIR", help="(default: %(default)s)")
    group.add_argument(
        "--overwrite", action="store_true", help="replace runs and comparisons of other settings in --out"
    )
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check, then study every data set; with several, say at the end what holds on which."""
    methods = methods_of(args)
    args.relevance, args.removal = (list(dict.fromkeys(one)) for one in (args.relevance, args.removal))
    require_explainable(architecture(commandline.backbone_of(args)), f"--model {args.model}")
    processes.first_says(lambda: commandline.check_writable(args.cache, "--cache"))
    sources = [alone(args, spec) for spec in dict.fromkeys(args.data)]
    with processes.first_goes_ahead():
        loaded = [commandline.data_of(one) for one in sources]  # all are checked before anything slow starts
    names = [Path(data.name).name for data in loaded]
    if len(set(names)) < len(names):
        raise UsageError(f"--data {' '.join(args.data)}: two have one name; rename a folder")
    processes.first_says(lambda: commandline.check_writable(args.out))
    found = {}
    for one, data, name in zip(sources, loaded, names):
        out = args.out / name if len(sources) > 1 else args.out
        given = argparse.Namespace(**{**vars(one), "out": out})
        share_work(given, data, methods)
        if processes.rank() == 0:
            with processes.alone():
                found[name] = study(given, data, methods)
    if len(found) > 1:
        write_together(args.out, found)
    if args.seeds == 1:
        print(ONE_SEED)


def write_together(out: Path, found: dict[str, Study]) -> None:
    """Write what several data sets say side by side: all claims in one file and one picture, all rows in one table."""
    rows = {
        f"{name}: {a} less {b}": [claim for claim in claims if claim.letter in MAIN]
        for name, one in found.items()
        for (a, b), claims in evidence.claims_of(one).items()
    }
    verdict_overview(out / "verdicts.png", rows, "What an earlier study claimed, on several data sets")
    tables = [(one.out / "claims.md").read_text(encoding="utf-8") for one in found.values()]
    write_text(
        out / "claims.md",
        "\n".join(table.replace("# What", f"# {name}: what", 1) for name, table in zip(found, tables)),
    )
    count = write_results(
        out / "results.csv", chain.from_iterable(read_results(one.out / "results.csv") for one in found.values())
    )
    print(f"{out}: claims.md, verdicts.png and results.csv ({count} rows) over all data sets")


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


def study(args: argparse.Namespace, data: ImageData, methods: list[Settings]) -> Study:
    """Study one data set; return all that was found."""
    labels, seeds, device = (
        [one.label() for one in methods],
        list(range(args.seeds)),
        commandline.device_of(args.device),
    )
    splits, tuned = explained_splits(data), len([one for one in methods if one.method != "linear"])
    steps = Steps(
        len(methods) * len(seeds) * (1 + sum(len(tasks_on(args, split)) for split in splits))
        + tuned * len(seeds)
        + len(splits)
        + 2
    )
    runs, subjects, observations = {}, {}, []
    for seed in seeds:
        for settings in methods:
            label = settings.label()
            steps.say(f"train {label}, seed {seed}")
            run = runs[label, seed] = train_one(args, data, settings, seed)
            for split in splits:
                subject = subjects[label, seed, split] = Subject(run, label, data, split, args, device)
                observations += measure(subject, steps)
    result = Study(
        args.out,
        data,
        labels,
        methods,
        seeds,
        args.relevance,
        args.removal,
        runs,
        Results(()),
        asked=frozenset(task.measurement for task in tasks_on(args, "val")),
    )
    observations += look_inside(result, subjects, steps)
    rows = with_baseline(unique(observations))
    result.results = Results(rows)
    for (label, seed, split), subject in subjects.items():
        if split == "val":
            result.runners_up[label, seed] = runners_up(subject, args.relevance[0])
    for split in splits:
        steps.say(f"the picture, {split}")
        compare_on(args, data, [runs[label, 0] for label in labels], split, "compare")
    write(args, result, rows, subjects, steps)
    return result


def share_work(args: argparse.Namespace, data: ImageData, methods: list[Settings]) -> None:
    """Train and measure by all processes, for the first to find it done; nothing where there is one.

    A run is trained by one process, and a measurement made by one, so that both have the bits that one process gives.
    """
    if processes.count() == 1:
        return
    device, splits = commandline.device_of(args.device), explained_splits(data)
    runs = [(settings, seed) for settings in methods for seed in range(args.seeds)]
    share(
        {
            f"train {settings.label()}, seed {seed}": partial(train_one, args, data, settings, seed)
            for settings, seed in runs
        }
    )
    subjects = {
        (settings.label(), seed, split): Subject(run, settings.label(), data, split, args, device)
        for settings, seed in runs
        for run in [load_run(run_folder(args, settings, seed), args.weights)]
        for split in splits
    }
    # runs that came out equal share what is measured of them: by the first of them
    measuring, looking = {}, {}
    for split in splits:
        for task in tasks_on(args, split):
            for (_, _, of), one in subjects.items():
                if of == split:
                    measuring.setdefault(
                        (task, split, one.content), (describe(one, task), partial(measured, one, task))
                    )
    for before, after, relevance in by_depth(methods, args.relevance, subjects):
        looking.setdefault(
            (before.content, after.content),
            (describe(after, "depth"), partial(measured_depth, before, after, relevance)),
        )
    share(dict(measuring.values()))
    share(dict(looking.values()))


def share(jobs: dict[str, Callable[[], object]]) -> None:
    """Do named jobs, each by one of the processes and as if it were alone; tell of each once it is done."""

    def work(mine: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[str]:
        for name, job in mine:
            with processes.alone():
                job()
            yield name

    for number, name in enumerate(processes.spread(list(jobs.items()), work), start=1):
        print(f"{processes.count()} processes, {number} of {len(jobs)}: {name}", flush=True)


class Steps:
    """Says which step of how many begins, and how many are left."""

    def __init__(self, total: int) -> None:
        self.total, self.begun = total, 0

    def say(self, what: str) -> None:
        self.begun += 1
        print(f"[{self.begun}/{self.total}, {self.total - self.begun} left] {what}", flush=True)


def explained_splits(data: ImageData) -> list[str]:
    return [split for split in data.splits if split.startswith("val")]


def tasks_on(args: argparse.Namespace, split: str) -> list[Task]:
    """What is measured on a split: everything on val, on other splits the maps alone."""
    return tasks(args.metrics if split == "val" else ["maps"], args.relevance, args.removal)


def measure(subject: Subject, steps: Steps) -> list[Observation]:
    """Measure one run on one split, or find it measured."""
    rows = []
    for task in tasks_on(subject.args, subject.split_name):
        kept = ", kept from before" if is_measured(subject, task) else ""
        steps.say(f"{describe(subject, task)}{kept}")
        rows += measured(subject, task)[0]
    return rows


def describe(subject: Subject, what: object) -> str:
    return f"{subject.method}, seed {subject.run.config['seed']}, {subject.split_name}: {what}"


def unique(observations: Iterable[Observation]) -> list[Observation]:
    """Drop what is there twice: probabilities come with every relevance method, a linear probe's attention with every
    method that it is compared with. The first stands, as another batch size moves the last digit."""
    found: dict[tuple, Observation] = {}
    for one in observations:
        found.setdefault(astuple(one)[:-1], one)
    return list(found.values())


def with_baseline(observations: list[Observation]) -> list[Observation]:
    """Add each measure of removing patches less the same model's random baseline, image by image."""

    def key(o: Observation) -> tuple:
        return o.split, o.method, o.seed, o.image, o.metric, o.removal

    removed = [o for o in observations if o.metric in evidence.PERTURBED]
    baseline = {key(o): o.value for o in removed if o.relevance == "random"}
    return observations + [
        replace(o, metric=o.metric + evidence.ABOVE, value=o.value - baseline[key(o)])
        for o in removed
        if o.relevance != "random"
    ]


def runners_up(subject: Subject, relevance: str) -> dict[str, tuple[int, int]]:
    """Image -> its class and the most probable other one, of the images whose maps were measured."""
    images, found = subject.images(subject.args.images), Maps.load(measured(subject, Task("maps", relevance))[1])
    others = found.probability.copy()
    np.put_along_axis(others, found.targets[:, :1], -1, axis=1)
    pairs = zip(found.targets[:, 0].tolist(), others.argmax(1).tolist())
    return dict(zip(subject.names(images), pairs))


def look_inside(result: Study, subjects: dict, steps: Steps) -> list[Observation]:
    """Measure attention and relevance by depth of every fine-tuned backbone against the one before."""
    rows = []
    for before, after, relevance in by_depth(result.kinds, result.relevances, subjects):
        steps.say(describe(after, "depth"))
        found = result.depth[after.method, after.run.config["seed"]] = measured_depth(before, after, relevance)
        for one, run in zip((before, after), found):
            rows += depth_rows(one, run)
    return rows


def by_depth(
    methods: Iterable[Settings], relevances: Iterable[str], subjects: dict
) -> Iterator[tuple[Subject, Subject, str | None]]:
    """Yield every fine-tuned backbone on val behind the one before, and the relevance method that tells blocks apart,
    if any.

    Before is the linear probe's of the same seed, which also has a head for these classes; without one among the
    methods, the un-tuned backbone, whose relevance has no class to start from.
    """
    probe = next((one.label() for one in methods if one.method == "linear"), None)
    relevance = next((one for one in relevances if has_option(one, "layers")), None) if probe else None
    for (method, seed, split), after in subjects.items():
        if split == "val" and method != probe:
            yield subjects[probe, seed, split] if probe else untuned(after), after, relevance


def untuned(after: Subject) -> Subject:
    """The backbone of a run before its training, with a head that knows nothing."""
    run = after.run
    model = create_backbone(
        BackboneSpec(**{f.name: run.config["backbone"][f.name] for f in fields(BackboneSpec)}), len(run.class_names)
    )
    return replace(after, run=replace(run, model=model), method="un-tuned")


def run_folder(args: argparse.Namespace, settings: Settings, seed: int) -> Path:
    return args.out / f"{chapters.stem(settings.label())}-seed{seed}"


def train_one(args: argparse.Namespace, data: ImageData, settings: Settings, seed: int) -> Run:
    """Train one method with one seed, or reuse the finished run in its folder."""
    out = run_folder(args, settings, seed)
    own = ["--method", settings.label(), "--seed", str(seed), "--out", str(out)]
    given = arguments_for(train, own, args)
    given.epochs = None if settings.method == "linear" else args.epochs
    train.train(given, data)
    return load_run(out, args.weights)


def arguments_for(script, own: list[str], args: argparse.Namespace) -> argparse.Namespace:
    """Return another script's arguments: its own, then whatever options it shares with the study but for the folder."""
    given = script.build_parser().parse_args(own)
    shared = {key: value for key, value in vars(args).items() if key in vars(given) and key not in ("out", "relevance")}
    return argparse.Namespace(**{**vars(given), **shared})


def compare_on(
    args: argparse.Namespace, data: ImageData, runs: list[Run], split: str, folder: str, pick: list[str] | None = None
) -> None:
    """Draw the picture of the runs on one split, of a sample or of images picked by name."""
    out = args.out / (folder + ("" if split == "val" else f"-{split}"))
    own = [*(str(run.folder) for run in runs), "--out", str(out), "--split", split, "--relevance", args.relevance[0]]
    given = arguments_for(compare, own, args)
    given.images, given.pick = PICTURE_IMAGES, pick
    given.overwrite = True  # a picture of the study's own, which follows its settings
    compare.compare(runs, data, given, commandline.device_of(args.device))


# ---- what is said


def write(args: argparse.Namespace, result: Study, rows: list[Observation], subjects: dict, steps: Steps) -> None:
    """Write results.csv, claims.md, findings.md, details.md and their figures; print the claims."""
    steps.say("the reports")
    groups = evidence.claims_of(result)
    facts = chapters.facts_of(result, args.model, args.data_seed, result.data.warnings)
    accuracies = [
        chapters.accuracy_row(result, *run, split)
        for run in result.runs
        for split in result.runs[run].summary["accuracy"]
    ]
    write_text(
        args.out / "claims.md",
        claims_markdown(groups, facts, [evidence.evidence_of(result, method) for method in result.methods], accuracies),
    )
    title = f"What fine-tuning did: {result.name}"
    beside = [*facts, "Everything else, seed by seed and metric by metric: details.md, claims.md, results.csv"]
    write_text(
        args.out / "findings.md", findings_markdown(title, [], chapters.findings(result, groups), args.out, beside)
    )
    sections = [*chapters.details(result, groups)]
    steps.say("the picture, images worth a look")
    sections += worth_a_look(args, result, subjects)
    write_text(args.out / "details.md", findings_markdown(f"{title}, in full", [], sections, args.out, facts))
    count = write_results(args.out / "results.csv", rows)
    print(
        f"{args.out}: findings.md, details.md, claims.md, results.csv ({count} rows), and the picture in "
        f"{args.out}/compare/grid.png"
    )
    for found in groups.values():
        for claim in (one for one in found if one.letter in MAIN):
            print(f"({claim.letter}) {claim.text}: {claim.first} against {claim.second}; {claim.verdict}")


def worth_a_look(args: argparse.Namespace, result: Study, subjects: dict) -> list[Section]:
    """Choose images by rule from the first two methods, first seed; name and draw them."""
    (first, second), seed, name = result.pairs[0], result.seeds[0], result.relevances[0]
    before, after = (
        Maps.load(measured(subjects[method, seed, "val"], Task("maps", name))[1]) for method in (first, second)
    )
    same = spearman(before.maps[:, 0], after.maps[:, 0])
    names = subjects[first, seed, "val"].names(subjects[first, seed, "val"].images(args.images))
    rows, picked = [], []
    for rule, candidates in rules_of(first, second, before, after, same, args.data_seed).items():
        for i in [i for i in candidates.tolist() if names[i] not in picked][:WORTH]:
            picked.append(names[i])
            rows.append(
                {
                    "image": names[i],
                    "chosen because": rule,
                    "likeness of the two maps (Spearman)": number(same[i]),
                    f"probability, {first}": number(before.probability[i, before.targets[i, 0]]),
                    f"probability, {second}": number(after.probability[i, after.targets[i, 0]]),
                }
            )
    compare_on(
        args, result.data, [result.runs[method, seed] for method in (first, second)], "val", "worth-a-look", picked
    )
    return [
        Section(
            "Images worth a look",
            [
                f"Chosen by rule from {len(names)} images, {first} against {second}, {name}; what "
                f"is chosen for being extreme is no evidence for what is usual."
            ],
            rows,
            args.out / "worth-a-look" / "grid.png",
            "The images of the table, in the order of their names.",
        )
    ]


def rules_of(
    first: str, second: str, before: Maps, after: Maps, same: np.ndarray, data_seed: int
) -> dict[str, np.ndarray]:
    """Rule -> images in the order in which they fit it; same: (N,) likeness of the true class's maps of both runs."""
    right = [found.probability.argmax(1) == found.targets[:, 0] for found in (before, after)]
    order = np.argsort(same, kind="stable")
    return {
        "maps differ most": order,
        "maps differ least": order[::-1],
        f"right in {first}, wrong in {second}": order[(right[0] & ~right[1])[order]],
        f"wrong in {first}, right in {second}": order[(~right[0] & right[1])[order]],
        "drawn at random": np.random.default_rng(data_seed).permutation(len(same)),
    }


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser(), several=True))
