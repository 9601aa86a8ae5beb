"""What study.py does: train every method and seed, measure, compare, and write what holds."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from commands.figure_inputs import verdict_panels
from commands.loading import load_for
from commands.options import StudyOptions
from commands.study_output import file_stem, write_study
from commands.train import train
from commands.train_options import TrainOptions
from common import processes
from common.devices import device_of
from common.errors import UsageError
from common.files import check_writable
from common.tables import write_text
from data.datasets import ImageData
from evaluation.depth import depth_rows
from evaluation.maps import StoredMaps
from evaluation.measurement_cache import FOLDER, MeasurementCache, Task, tasks
from evaluation.metrics.registry import ABOVE_RANDOM
from evaluation.observations import Observation, Results, read_results, write_results
from evaluation.options import RUNNER_UP
from evaluation.predictions import Rows, predictions_of
from evaluation.quantities import PERTURBATION
from evaluation.statistics.claims import MAIN
from evaluation.statistics.verdicts import ONE_SEED
from evaluation.study_claims import claims_of
from evaluation.study_results import StudyResults
from evaluation.subjects import Subject, require_explainable
from explain.registry import METHODS, RelevanceOptions
from models.backbone import architecture, create_backbone
from models.methods import MethodSettings
from models.options import BackboneSpec
from models.runs import Run, load_run
from models.training.recipe import RECIPES, Augmentation, ProbeRecipe, Recipe
from report.figures.verdict_overview import verdict_overview

Subjects = dict[tuple[str, int, str], Subject]  # (label, seed, split) -> a run and the images that it is asked about


def study(options: StudyOptions) -> None:
    """Study every data set; with several, also write what holds on which."""
    require_explainable(architecture(options.backbone), f"--model {options.backbone.name}")
    processes.on_main_process(lambda: check_writable(options.running.cache, "--cache"))
    with processes.main_process_first():
        loaded = [load_for(one, options.backbone, options.running.cache) for one in options.data]
    names = [Path(data.name).name for data in loaded]
    processes.on_main_process(lambda: check_writable(options.out))
    for data in loaded:
        check_split(options.split, data)
    found = {}
    for one, data, name in zip(options.data, loaded, names):
        out = options.out / name if len(loaded) > 1 else options.out
        experiment = Experiment(replace(options, data=(one,), out=out), data)
        experiment.share_work()
        if processes.rank() == 0:
            with processes.single_process():
                found[name] = experiment.run()
    if len(found) > 1:
        write_together(reports_of(options), found)
    if options.seeds == 1:
        print(ONE_SEED)


def check_split(split: str, data: ImageData) -> None:
    """Raise UsageError where a data set has no such images to judge claims on."""
    if split in ("train", "held_out"):
        raise UsageError(f"--split {split}: training used these images; give val, or test where the data have it")
    if split not in data.splits:
        others = ", ".join(name for name in data.splits if name != "train")
        raise UsageError(f"--split {split!r}: {data.name} has no such images to judge on; it has {others}")


def reports_of(options: StudyOptions) -> Path:
    """Return the folder of the reports: the study's own for val, one within it for other splits."""
    return options.out if options.split == "val" else options.out / f"on-{options.split}"


def write_together(out: Path, found: dict[str, StudyResults]) -> None:
    """Write what several data sets say side by side: all claims in one file and one figure, all rows in one table."""
    rows = {
        f"{name}: {a} less {b}": [claim for claim in claims if claim.letter in MAIN]
        for name, one in found.items()
        for (a, b), claims in claims_of(one).items()
    }
    verdict_overview(out / "verdicts.png", verdict_panels(rows), "What an earlier study claimed, on several data sets")
    tables = [(one.out / "claims.md").read_text(encoding="utf-8") for one in found.values()]
    texts = [table.replace("# ", f"# {name}: ", 1) for name, table in zip(found, tables)]
    write_text(out / "claims.md", "\n".join(texts))
    everything = chain.from_iterable(read_results(one.out / "results.csv") for one in found.values())
    count = write_results(out / "results.csv", everything)
    print(f"{out}: claims.md, verdicts.png and results.csv ({count} rows) over all data sets")


class Steps:
    """Prints which step begins, and how many are left."""

    def __init__(self, total: int) -> None:
        self.total, self.begun = total, 0

    def say(self, what: str) -> None:
        """Begin a step."""
        self.begun += 1
        print(f"[{self.begun}/{self.total}, {self.total - self.begun} left] {what}", flush=True)


@dataclass
class Experiment:
    """One data set's experiment.

    options: with this data set and its output folder.
    data: the data set.
    """

    options: StudyOptions
    data: ImageData

    def __post_init__(self) -> None:
        self.device = device_of(self.options.running.device)
        self.cache = MeasurementCache(self.options.out / FOLDER)
        self.seeds = list(range(self.options.seeds))
        self.split = self.options.split
        # on drawn scenes, what changes where the surface does not give the sport away
        beside = ["val_shuffled"] if self.split == "val" and "val_shuffled" in self.data.splits else []
        self.splits = [self.split, *beside]
        self.labels = [one.label() for one in self.options.methods]

    def run(self) -> StudyResults:
        """Train, measure, compare and write; return everything found."""
        steps = Steps(self._count_steps())
        runs = {}
        for seed in self.seeds:
            for settings in self.options.methods:
                steps.say(f"train {settings.label()}, seed {seed}")
                runs[settings.label(), seed] = self.train_one(settings, seed)
        subjects, predicted = self.subjects(runs)
        observations = [row for subject in subjects.values() for row in self.measure(subject, steps)]
        measured = frozenset(task.measurement for task in self.tasks_on(self.split))
        methods = [one.method for one in self.options.measurement.relevance]
        results = StudyResults(
            reports_of(self.options),
            self.data,
            self.labels,
            list(self.options.methods),
            self.seeds,
            methods,
            list(self.options.measurement.imputations),
            runs,
            Results(()),
            self.split,
            predicted,
            measured=measured,
        )
        observations += self.look_inside(results, subjects, steps)
        rows = minus_random(unique(observations))
        results.results = Results(rows)
        for (label, seed, split), subject in subjects.items():
            if split == self.split:
                results.runners_up[label, seed] = self.runners_up(subject)
        write_study(replace(self.options, out=results.out), results, rows, subjects, self.cache, steps.say)
        return results

    def _count_steps(self) -> int:
        runs = len(self.labels) * len(self.seeds)
        measured = sum(len(self.tasks_on(split)) for split in self.splits)
        tuned = sum(one.method != "linear" for one in self.options.methods) * len(self.seeds)
        return runs * (1 + measured) + tuned + len(self.splits) + 2

    def tasks_on(self, split: str) -> list[Task]:
        """Return what is measured on a split: everything where claims are judged, elsewhere what the picture shows."""
        asked = self.options.measurement
        shown = replace(asked, measurements=("maps",), relevance=asked.relevance[:1])
        return tasks(asked if split == self.split else shown)

    # ---- training

    def run_folder(self, settings: MethodSettings, seed: int) -> Path:
        """Return the folder of one run."""
        return self.options.out / f"{file_stem(settings.label())}-seed{seed}"

    def recipe_of(self, settings: MethodSettings) -> Recipe | ProbeRecipe:
        """Return the recipe of a method in this study."""
        recipe = replace(RECIPES[settings.method], label_smoothing=self.options.label_smoothing)
        if self.options.epochs is not None and not isinstance(recipe, ProbeRecipe):
            recipe = replace(recipe, epochs=self.options.epochs)
        return recipe

    def augmentation(self) -> Augmentation:
        """Return the augmentation of every method: without it, what differs between methods may be what they saw."""
        if self.options.training_views == "own":
            return Augmentation()
        recipes = [self.recipe_of(one) for one in self.options.methods]
        return Augmentation(views=max((one.epochs for one in recipes if isinstance(one, Recipe)), default=0))

    def train_one(self, settings: MethodSettings, seed: int) -> Run:
        """Train one method with one seed, or reuse the finished run in its folder."""
        options, out = self.options, self.run_folder(settings, seed)
        train(
            TrainOptions(
                out=out,
                data=options.data[0],
                backbone=options.backbone,
                settings=settings,
                recipe=self.recipe_of(settings),
                augmentation=self.augmentation(),
                seed=seed,
                overwrite=options.overwrite,
                running=options.running,
            ),
            self.data,
        )
        return load_run(out, options.backbone.weights)

    def subjects(self, runs: dict[tuple[str, int], Run]) -> tuple[Subjects, dict[tuple[str, int], Rows]]:
        """Return every run with the images of every split that it is asked about, and its predictions where claims are
        judged."""
        options = self.options.measurement
        found = {
            (label, seed, split): Subject(run, label, self.data, split, options, self.device)
            for (label, seed), run in runs.items()
            for split in self.splits
        }
        predicted = {run: self.predictions(found[*run, self.split]) for run in runs}
        right = (frozenset(row["image"] for row in rows if row["correct"] == 1) for rows in predicted.values())
        correct = frozenset.intersection(*right)
        return {key: replace(subject, correct=correct) for key, subject in found.items()}, predicted

    def predictions(self, subject: Subject) -> Rows:
        """Return the predictions of all images of a subject's split: train.py's or, where it made none, stored ones."""
        if subject.split_name in subject.run.summary["accuracy"]:
            return predictions_of(subject.run.folder, self.data, subject.split_name)
        return self.cache.predictions(subject)

    # ---- measuring

    def measure(self, subject: Subject, steps: Steps) -> list[Observation]:
        """Measure one run on one split, or read what is stored."""
        rows = []
        for task in self.tasks_on(subject.split_name):
            stored = ", stored" if self.cache.holds(subject, task) else ""
            steps.say(f"{describe(subject, task)}{stored}")
            rows += self.cache.measured(subject, task)
        return rows

    def look_inside(self, results: StudyResults, subjects: Subjects, steps: Steps) -> list[Observation]:
        """Measure attention and relevance by depth of every fine-tuned backbone, before and after."""
        rows: list[Observation] = []
        for before, after, relevance in self.by_depth(subjects):
            steps.say(describe(after, "depth"))
            found = results.depth[after.label, after.run.config.seed] = self.cache.depth(before, after, relevance)
            for one, run in zip((before, after), found):
                rows += depth_rows(one, run)
        return rows

    def by_depth(self, subjects: Subjects) -> Iterator[tuple[Subject, Subject, RelevanceOptions | None]]:
        """Yield every fine-tuned run after the one before, and a relevance method that tells blocks apart.

        Before is the linear probe of the same seed, which also has a head for these classes; without a linear probe,
        the un-tuned backbone, whose relevance has no class to start from: the method is None then.
        """
        probe = next((one.label() for one in self.options.methods if one.method == "linear"), None)
        able = [one for one in self.options.measurement.relevance if "layers" in METHODS[one.method].options]
        relevance = able[0] if able and probe else None
        for (label, seed, split), after in subjects.items():
            if split == self.split and label != probe:
                yield subjects[probe, seed, split] if probe else untuned(after), after, relevance

    def runners_up(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Return image -> its class and the runner-up, for the images whose maps were measured."""
        stored: StoredMaps = self.cache.maps(subject, self.options.measurement.relevance[0])
        targets = stored.targets
        pairs = zip(targets.classes[:, 0].tolist(), targets.classes[:, targets.columns(RUNNER_UP)][:, 0].tolist())
        return dict(zip(subject.images(self.options.measurement.images).names, pairs))

    # ---- several processes

    def share_work(self) -> None:
        """Train and measure with all processes, so that the first finds it done; nothing where there is one.

        A run is trained by one process, and a measurement made by one, so that both have the bits that one process
        gives.
        """
        if processes.count() == 1:
            return
        chosen = [(settings, seed) for seed in self.seeds for settings in self.options.methods]
        share({f"train {one.label()}, seed {seed}": partial(self.train_one, one, seed) for one, seed in chosen})
        weights = self.options.backbone.weights
        runs = {(one.label(), seed): load_run(self.run_folder(one, seed), weights) for one, seed in chosen}
        subjects, _ = self.subjects(runs)
        # maps first: other measurements read them; runs with equal weights share what is measured of them
        for maps in (True, False):
            share(self._measuring(subjects, maps))
        looking: dict[tuple, tuple[str, Callable[[], object]]] = {}
        for before, after, relevance in self.by_depth(subjects):
            job = partial(self.cache.depth, before, after, relevance)
            looking.setdefault((before.content_hash, after.content_hash), (describe(after, "depth"), job))
        share(dict(looking.values()))

    def _measuring(self, subjects: Subjects, maps: bool) -> dict[str, Callable[[], object]]:
        found: dict[tuple, tuple[str, Callable[[], object]]] = {}
        for (_, _, split), subject in subjects.items():
            for task in self.tasks_on(split):
                if (task.measurement == "maps") == maps:
                    job = partial(self.cache.measured, subject, task)
                    found.setdefault((task, split, subject.content_hash), (describe(subject, task), job))
        return dict(found.values())


def share(jobs: dict[str, Callable[[], object]]) -> None:
    """Do named jobs, each by one of the processes and as if it were alone; print each once it is done."""

    def work(mine: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[str]:
        for name, job in mine:
            with processes.single_process():
                job()
            yield name

    for number, name in enumerate(processes.distribute(list(jobs.items()), work), start=1):
        print(f"{processes.count()} processes, {number} of {len(jobs)}: {name}", flush=True)


def describe(subject: Subject, what: object) -> str:
    """Return a step in words."""
    return f"{subject.label}, seed {subject.run.config.seed}, {subject.split_name}: {what}"


def untuned(after: Subject) -> Subject:
    """Return the backbone of a run before its training, with an untrained head."""
    run, recorded = after.run, after.run.config.backbone
    spec = BackboneSpec(recorded.name, recorded.weights, recorded.image_size)
    return replace(after, run=replace(run, model=create_backbone(spec, len(run.class_names))), label="un-tuned")


def unique(observations: Iterable[Observation]) -> list[Observation]:
    """Drop repeated observations; the first stands, as another batch size moves the last digit.

    Probabilities come with every relevance method, a linear probe's attention with every method compared with it.
    """
    found: dict[tuple, Observation] = {}
    for one in observations:
        found.setdefault(astuple(one)[:-1], one)
    return list(found.values())


def minus_random(observations: list[Observation]) -> list[Observation]:
    """Add each faithfulness metric minus the value of the same model's random maps, image by image."""

    def key(one: Observation) -> tuple:
        return one.split, one.method, one.seed, one.image, one.metric, one.imputation

    measured = [one for one in observations if one.metric in PERTURBATION]
    baseline = {key(one): one.value for one in measured if one.relevance == "random"}
    return observations + [
        replace(one, metric=one.metric + ABOVE_RANDOM, value=one.value - baseline[key(one)])
        for one in measured
        if one.relevance != "random"
    ]
