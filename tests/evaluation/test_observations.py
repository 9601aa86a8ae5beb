"""evaluation.observations: tidy rows written and read back, and paired vectors picked out of rows made by hand."""

import tracemalloc

import numpy as np
import pytest

from common.errors import UsageError
from evaluation.observations import COLUMNS, Observation, Results, read_results, write_results
from evaluation.statistics.measured import measure


def row(
    method="linear",
    image="a.png",
    value=0.5,
    metric="entropy",
    seed=0,
    target="other",
    split="val",
    relevance="lrp",
    imputation="",
    place="",
) -> Observation:
    return Observation("scenes", split, method, seed, image, relevance, target, metric, imputation, place, value)


def rows_of(method: str, values: dict[str, float], **columns) -> list[Observation]:
    return [row(method, image, value, **columns) for image, value in values.items()]


# Files


def test_what_is_written_is_read_back_with_six_digits(tmp_path):
    rows = [
        row(value=0.123456789),
        row(value=float("nan"), image='b, "c".png'),
        row("before", seed=None, value=-12345678.9),
        row(target="", relevance="", metric="probability", value=np.float32(1e-12), split="é"),
    ]
    assert write_results(tmp_path / "results.csv", rows) == 4
    found = list(read_results(tmp_path / "results.csv"))
    assert [o.value for o in found] == pytest.approx([0.123457, np.nan, -12345700.0, 1e-12], rel=1e-9, nan_ok=True)
    assert [(o.method, o.seed, o.image, o.target, o.split) for o in found] == [
        (o.method, o.seed, o.image, o.target, o.split) for o in rows
    ]
    lines = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [",".join(COLUMNS), "scenes,val,linear,0,a.png,lrp,other,entropy,,,0.123457"]
    assert lines[2].endswith("entropy,,,") and "before,,a.png" in lines[3]


def test_rows_are_never_all_in_memory(tmp_path):
    count = 20_000
    tracemalloc.start()
    assert write_results(tmp_path / "results.csv", (row(image=str(i), value=i) for i in range(count))) == count
    assert sum(o.value for o in read_results(tmp_path / "results.csv")) == count * (count - 1) / 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000 < (tmp_path / "results.csv").stat().st_size  # bytes


def test_a_half_written_file_leaves_the_old_one(tmp_path):
    write_results(tmp_path / "results.csv", [row()])
    with pytest.raises(ZeroDivisionError):
        write_results(tmp_path / "results.csv", (row(value=1 / n) for n in (1, 0)))
    assert len(list(read_results(tmp_path / "results.csv"))) == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,run\na,b\n", "got image,run"),
        ("", "got none"),
        (",".join(COLUMNS) + "\nscenes,val,linear,0,a,lrp,other,entropy,,,high\n", "line 2: expected 11 fields"),
        (",".join(COLUMNS) + "\nscenes,val,linear,0,a\n", "line 2: .*got scenes,val,linear,0,a;"),
        (",".join(COLUMNS) + "\nscenes,val,linear,first,a,lrp,other,entropy,,,0.5\n", "whole number as seed"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text, message):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        list(read_results(tmp_path / "results.csv"))


def test_a_metric_without_a_title_is_refused(tmp_path):
    with pytest.raises(ValueError, match="metric 'likeness' is not known"):
        write_results(tmp_path / "results.csv", [row(metric="likeness")])
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_earlier_version_is_read(tmp_path):
    """Its column `removal` is `imputation` now."""
    header = ",".join(COLUMNS).replace("imputation", "removal")
    (tmp_path / "results.csv").write_text(header + "\nscenes,val,dora,1,a.png,lrp,true,srg,blur,,0.5\n")
    (found,) = read_results(tmp_path / "results.csv")
    assert found == row("dora", seed=1, target="true", metric="srg", imputation="blur")


# Pairs


def test_images_in_common_stand_in_one_order():
    results = Results(
        rows_of("linear", {"c": 3.0, "a": 1.0, "b": 2.0}) + rows_of("dora", {"a": 10.0, "d": 40.0, "c": 30.0})
    )
    found = results.pairs("linear", "dora", "entropy")
    assert (found.images, found.seeds, found.n_missing) == (("c", "a"), (0,), 2)
    assert found.first.tolist() == [[3.0, 1.0]] and found.second.tolist() == [[30.0, 10.0]]


def test_an_image_has_to_be_there_in_every_seed_and_a_nan_counts_as_there():
    results = Results(
        [
            o
            for seed in (0, 1)
            for method in ("linear", "dora")
            for o in rows_of(method, {"a": seed + 1.0, "b": np.nan if seed else 5.0, "c": 7.0}, seed=seed)
            if (method, seed, o.image) != ("dora", 1, "c")
        ]
    )
    found = results.pairs("linear", "dora", "entropy")
    assert (found.images, found.seeds, found.n_missing) == (("a", "b"), (0, 1), 1)
    assert found.first.tolist()[0] == [1.0, 5.0] and np.isnan(found.second[1, 1])
    assert measure(found.first, found.second).n_dropped == 1
    assert results.pairs("linear", "dora", "entropy", seed=0).images == ("a", "b", "c")


def test_only_seeds_that_both_have_are_paired():
    results = Results(
        [
            o
            for method, seeds in (("linear", (0, 1, 2)), ("dora", (2, 0)))
            for seed in seeds
            for o in rows_of(method, {"a": float(seed)}, seed=seed)
        ]
    )
    found = results.pairs("linear", "dora", "entropy")
    assert found.seeds == (0, 2) and found.first.tolist() == found.second.tolist() == [[0.0], [2.0]]
    with pytest.raises(UsageError, match="training seed 1 of linear and dora for entropy, got 0, 1, 2 of linear"):
        results.pairs("linear", "dora", "entropy", seed=1)


def test_a_model_that_was_not_trained_is_paired_with_every_seed():
    results = Results(
        rows_of("before", {"a": 9.0}, seed=None) + rows_of("dora", {"a": 1.0}) + rows_of("dora", {"a": 2.0}, seed=1)
    )
    found = results.pairs("before", "dora", "entropy")
    assert found.first.tolist() == [[9.0], [9.0]] and found.second.tolist() == [[1.0], [2.0]]
    assert results.pairs("before", "before", "entropy").seeds == (None,)


def test_methods_without_an_image_in_common_give_empty_vectors():
    found = Results(rows_of("linear", {"a": 1.0}) + rows_of("dora", {"b": 1.0})).pairs("linear", "dora", "entropy")
    assert found.first.shape == found.second.shape == (1, 0) and found.n_missing == 2


def test_what_is_left_open_has_to_be_the_same_everywhere():
    results = Results(
        rows_of("linear", {"a": 1.0})
        + rows_of("dora", {"a": 2.0})
        + rows_of("linear", {"a": 3.0}, split="val_shuffled")
        + rows_of("full", {"a": 4.0}, split="val_shuffled")
    )
    with pytest.raises(UsageError, match="several values of split .val, val_shuffled.; give one of them"):
        results.pairs("linear", "dora", "entropy")
    with pytest.raises(UsageError, match="several values of split"):  # one each, and not the same
        results.pairs("dora", "full", "entropy")
    assert results.pairs("linear", "dora", "entropy", split="val").first.tolist() == [[1.0]]
    with pytest.raises(UsageError, match="no row with metric entropy, split test, method dora; methods: linear, dora"):
        results.pairs("dora", "linear", "entropy", split="test")
    with pytest.raises(TypeError, match="image"):
        results.pairs("dora", "linear", "entropy", image="a")
    assert results.known("split") == ["val", "val_shuffled"] and results.known("seed") == [0]


def test_the_same_row_twice_is_refused():
    with pytest.raises(UsageError, match="there twice"):
        Results([row(), row(value=0.6)])
