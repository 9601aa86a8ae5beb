"""The classes whose relevance is asked for: the same choice for every command."""

from collections import Counter

import numpy as np
import pytest
from subjects import Labels, labelled

from evaluation.targets import Targets, choose_targets

ABC = ("a", "b", "c")


def one_hot(classes: list[int], count: int) -> np.ndarray:
    return np.eye(count)[classes]


def chosen(subject, probability: np.ndarray) -> Targets:
    return choose_targets(subject, subject.images(), probability)


def names(subject, targets: Targets) -> np.ndarray:
    return np.array(subject.run.class_names)[targets.classes]


def test_targets_are_the_datas_in_every_runs_own_order():
    split = Labels([0, 1, 2, 0])
    ours, theirs = labelled(ABC, ABC, split), labelled(("c", "a", "b"), ABC, split)
    order = [ours.split.labels[i] for i in ours.images().indices]
    first = chosen(ours, np.array([[0.2, 0.5, 0.3]] * 4))
    second = chosen(theirs, np.array([[0.3, 0.2, 0.5]] * 4))  # the same, in its own order
    assert [names(ours, first)[i, 0] for i in range(4)] == [ABC[label] for label in order]
    assert (names(ours, first) == names(theirs, second)).all() and first.first == second.first == "true"
    assert (first.classes != second.classes).any()


def test_random_classes_are_uniform_over_all_classes_but_the_true_one():
    """Whatever the run predicts; each of the other classes comes equally often."""
    subject = labelled("abcdefgh", "abcdefgh", Labels([0] * 2100), random_classes=1)
    drawn = chosen(subject, one_hot([1] * 2100, 8)).classes[:, 1]
    counts = Counter(drawn.tolist())
    assert set(counts) == set(range(1, 8))
    assert all(abs(count - 300) < 4 * np.sqrt(300 * 6 / 7) for count in counts.values())


@pytest.mark.parametrize("own", [False, True])
def test_random_classes_follow_the_data_seed_and_the_image_alone(own):
    """Two runs, another order of images, fewer of them: an image has the same classes."""
    classes, data = [str(i) for i in range(100)], ABC if own else [str(i) for i in range(100)]
    split, rng = Labels([0, 1, 2, 0, 1, 2, 0, 1]), np.random.default_rng(0)

    def drawn(probability: np.ndarray, **options) -> dict[int, list[int]]:
        subject = labelled(classes, data, split, **options)
        images = subject.images(options.get("images"))
        columns = choose_targets(subject, images, probability).columns("random")
        found = choose_targets(subject, images, probability).classes[:, columns]
        return dict(zip(images.indices.tolist(), found.tolist()))

    predicted = one_hot([5] * 8, 100)
    other = predicted * 0.5 + 0.005 * rng.random((8, 100))  # another run that predicts the same
    first, second = drawn(predicted), drawn(other)
    assert first == second and len({tuple(row) for row in first.values()}) == 8
    fewer = drawn(predicted[:3], images=3)
    assert fewer.items() <= first.items()
    assert drawn(predicted, data_seed=1).keys() == first.keys() and drawn(predicted, data_seed=1) != first


def test_no_class_is_explained_twice_among_true_and_random_ones():
    split = Labels(list(range(5)) * 20)
    for asked, there in ((3, 3), (4, 4), (9, 4)):
        targets = chosen(labelled("abcde", "abcde", split, random_classes=asked), np.full((100, 5), 0.2))
        assert targets.random_classes == there and targets.classes.shape == (100, 1 + there + 1)
        assert all(len(set(row)) == 1 + there for row in targets.classes[:, : 1 + there].tolist())


def test_the_runner_up_is_the_most_probable_class_but_the_first():
    probability = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    subject = labelled("abcd", "abcd", Labels([0, 1, 2] * 10))
    targets = chosen(subject, probability)
    for row, p in zip(targets.classes, probability):
        assert row[targets.columns("runner-up")].tolist() == [max(set(range(4)) - {row[0]}, key=lambda c, p=p: p[c])]


def test_a_model_with_classes_of_its_own_is_explained_for_what_it_predicts():
    subject = labelled("pqrs", ABC, Labels([0, 1, 2, 0], distractors=[1, -1, 0, -1]))
    probability = one_hot([3, 3, 0, 1], 4) * 0.9 + 0.025
    targets = chosen(subject, probability)
    assert targets.first == "predicted" and names(subject, targets)[:, 0].tolist() == ["s", "s", "p", "q"]
    assert targets.columns("predicted") == slice(0, 1) and not targets.distracted.any()
    assert targets.classes.shape == (4, 1 + 3 + 1), "a class of the data's is no target"
    assert (targets.classes[:, 1:4] != targets.classes[:, :1]).all()


def test_a_distractors_class_is_the_last_target_where_images_have_some():
    subject = labelled("abcd", "abcd", Labels([0, 1, 2, 3], distractors=[1, -1, 0, -1]), random_classes=2)
    probability = np.full((4, 4), 0.25)
    targets = chosen(subject, probability)
    distracted = {int(i): one for i, one in zip(subject.images().indices, targets.distracted)}
    assert distracted == {0: True, 1: False, 2: True, 3: False}
    last = {int(i): int(row[-1]) for i, row in zip(subject.images().indices, targets.classes)}
    assert last == {0: 1, 1: 1, 2: 0, 3: 3}, "the first target again where there is none"
    assert targets.columns("distractor") == slice(4, 5)


def test_columns_of_targets_hold_nothing_of_others():
    targets = Targets(np.zeros((2, 5), int), 3, np.zeros(2, bool))
    columns = [targets.columns(name) for name in ("true", "random", "runner-up", "distractor", "predicted")]
    assert [len(range(*one.indices(5))) for one in columns] == [1, 3, 1, 0, 0]


@pytest.mark.parametrize(
    "which, columns, said",
    [
        ("auto", [5, 1, 5], ["distractor", "random", "distractor"]),
        ("random", [1, 1, 1], ["random"] * 3),
        ("runner-up", [4, 4, 4], ["runner-up"] * 3),
    ],
)
def test_the_second_heatmap_shows_what_is_asked_for(which, columns, said):
    targets = Targets(np.zeros((3, 6), int), 3, np.array([True, False, True]))
    column, name = targets.second(which)
    assert column.tolist() == columns and name.tolist() == said
