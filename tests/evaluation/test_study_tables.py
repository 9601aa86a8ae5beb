"""Arrays and rows that a study's figures and tables are made of."""

from types import SimpleNamespace

import numpy as np

from evaluation.study_tables import confused_pairs


def test_confused_classes_are_told_from_the_images_they_belong_to():
    """Three measured images of four: names tell which, and only images with one runner-up everywhere count."""
    rows = {
        ("linear", 0): {"a": (0, 1), "c": (0, 1), "d": (1, 0)},
        ("dora", 0): {"a": (0, 1), "c": (0, 2), "d": (1, 0)},
    }
    wrong = [
        dict(image=image, label=label, predicted=predicted, correct=int(label == predicted))
        for image, label, predicted in (
            ("a", "cat", "dog"),
            ("b", "cat", "dog"),
            ("c", "cat", "cat"),
            ("d", "dog", "cat"),
        )
    ]
    similarity = {"linear": np.array([[0.1, 0.2, 0.3]]), "dora": np.array([[0.5, 0.6, 0.9]])}
    known = SimpleNamespace(
        split="val",
        methods=["linear", "dora"],
        seeds=[0],
        relevances=["lrp"],
        runners_up=rows,
        runs=dict.fromkeys(rows),
        data=SimpleNamespace(class_names=["cat", "dog", "cow"]),
        values=lambda method, *_: similarity[method],
        predictions=lambda *_: wrong,
    )
    found = {(pair.true, pair.predicted): pair for pair in confused_pairs(known)}
    cat, dog = found["cat", "dog"], found["dog", "cat"]
    assert (cat.images, cat.confused, dog.images, dog.confused) == (1, 2, 1, 2)
    means = [pair.similarity[method].mean for pair, method in ((cat, "linear"), (cat, "dora"), (dog, "dora"))]
    assert means == [0.1, 0.5, 0.9]
