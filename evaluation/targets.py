"""The classes whose relevance is asked for: one choice for every command.

Letters: N images, T targets, C classes of a run.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.images import Images
from evaluation.options import AUTO, DISTRACTOR, PREDICTED, RANDOM, RUNNER_UP, TRUE
from evaluation.subjects import Subject


@dataclass(frozen=True)
class Targets:
    """The targets of each image.

    classes: (N, T) int64, among the run's own classes. The first is the true class or, where the run's classes are not
        those of the data, the predicted one; then random classes, the runner-up, and on drawn scenes the distractor's
        class (the first target again where an image has no distractor).
    random_classes: number of random classes.
    distracted: (N,) bool, whether the image shows a distractor.
    first: TRUE or PREDICTED.
    """

    classes: np.ndarray
    random_classes: int
    distracted: np.ndarray
    first: str = TRUE

    def columns(self, target: str) -> slice:
        """Return the columns of `classes` that hold a target; an empty slice where there is none."""
        runner_up = 1 + self.random_classes
        starts = {self.first: (0, 1), RANDOM: (1, runner_up), RUNNER_UP: (runner_up, runner_up + 1)}
        start, stop = starts.get(target, (runner_up + 1, self.classes.shape[1]))
        return slice(start, stop)

    def second(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """Return which target the second heatmap of each image shows, by SECOND.

        Returns the column in `classes`, (N,) int64, and the target's name, (N,) str.
        """
        count = len(self.classes)
        name = RUNNER_UP if which == RUNNER_UP else RANDOM
        column = np.full(count, self.columns(name).start)
        names = np.full(count, name, dtype=object)
        if which == AUTO and self.distracted.any():
            column[self.distracted] = self.columns(DISTRACTOR).start
            names[self.distracted] = DISTRACTOR
        return column, names.astype(str)


def choose_targets(subject: Subject, images: Images, probability: np.ndarray) -> Targets:
    """Choose the targets of some images for one run.

    Random classes are uniform over all classes but the first target, without repeats, and depend on the data seed and
    the image alone: they are the same for every run. The runner-up is the most probable class but the first target.

    subject: the run, with the number of random classes and the data seed.
    images: N images.
    probability: (N, C), the run's probabilities.
    """
    own = subject.own_classes
    number = None if own else [subject.run.class_names.index(name) for name in subject.data.class_names]
    rows, distracted = [], []
    for index, p in zip(images.indices.tolist(), probability):
        scene = subject.split.scene(index)
        first = int(p.argmax()) if own else int(subject.split.labels[index])
        drawn = _random_classes(subject, index, first, len(p))
        distractor = -1 if own or scene is None else scene.distractor
        extra = [] if own or scene is None else [distractor if distractor >= 0 else first]
        named = [first, *drawn, *extra]
        named = named if number is None else [number[c] for c in named]
        runner_up = _most_probable_other(p, named[0])
        rows.append([*named[: 1 + len(drawn)], runner_up, *named[1 + len(drawn) :]])
        distracted.append(distractor >= 0)
    random_classes = min(subject.options.random_classes, probability.shape[1] - 1)
    return Targets(np.array(rows), random_classes, np.array(distracted), PREDICTED if own else TRUE)


def _most_probable_other(probability: np.ndarray, first: int) -> int:
    others = probability.copy()
    others[first] = -1
    return int(others.argmax())


def _random_classes(subject: Subject, index: int, first: int, classes: int) -> list[int]:
    free = [c for c in range(classes) if c != first]
    count = min(subject.options.random_classes, len(free))
    return np.random.default_rng((subject.options.data_seed, index)).choice(free, count, replace=False).tolist()
