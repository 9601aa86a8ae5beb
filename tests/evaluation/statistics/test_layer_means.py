"""evaluation.statistics.layers: shares of relevance by block and head against the slow formula."""

import numpy as np
import pytest
from made_up_shares import names, some_means, some_shares

from evaluation.statistics.layers import ALL, LayerMeans, layer_means, layer_rows
from evaluation.statistics.paired import single


def means_of(label: str, layers: int = 3, heads: int = 2, seed: int = 0) -> LayerMeans:
    """Return some means with made-up intervals, which are quick."""
    by_block, by_head = some_means(layers, heads, seed)
    return LayerMeans(label, tuple(names(layers)), by_block, by_head, images=6)


def test_means_are_the_slow_formulas():
    shares = some_shares()
    found = layer_means("run", names(3), shares)
    assert found.by_block.shape == (2, 3, 3) and found.by_head.shape == (2, 3, 2, 3) and found.images == 6
    for target in range(2):
        for block in range(3):
            values = [sum(shares[i, target, block, head] for head in range(2)) for i in range(6)]
            expected = single(values)
            assert np.allclose(found.by_block[target, block], [expected.mean, expected.low, expected.high])
            for head in range(2):
                expected = single([shares[i, target, block, head] for i in range(6)])
                assert np.allclose(found.by_head[target, block, head], [expected.mean, expected.low, expected.high])
    assert np.allclose(found.by_block[..., 0].sum(1), 1)


def test_an_image_without_relevance_is_left_out_and_one_image_has_no_interval():
    shares = some_shares()
    missing = np.concatenate([shares, np.full((1, 2, 3, 2), np.nan)])
    assert np.allclose(layer_means("r", names(3), missing).by_head, layer_means("r", names(3), shares).by_head)
    alone = layer_means("r", names(3), shares[:1])
    assert np.allclose(alone.by_head[..., 0], shares[0]) and np.isnan(alone.by_head[..., 1:]).all()


def test_rows_are_tidy():
    run = means_of("run")
    rows = layer_rows([run, means_of("other", seed=1)], ("true", "other"))
    assert len(rows) == 2 * 2 * 3 * (2 + 1)
    share, low, high = run.by_block[0, 0]
    assert rows[0] == {
        "run": "run",
        "target": "true",
        "block": "0",
        "head": ALL,
        "images": 6,
        "share": share,
        "low": low,
        "high": high,
    }
    (wanted,) = [row for row in rows if list(row.values())[:4] == ["run", "other", "2", 1]]
    assert [wanted["share"], wanted["low"], wanted["high"]] == run.by_head[1, 2, 1].tolist()


@pytest.mark.parametrize("shares", [some_shares(4), some_shares()[0]])
def test_shares_and_blocks_must_agree(shares):
    with pytest.raises(ValueError, match=r"with 3 names of blocks; expected \(images, targets, 3, heads\)"):
        layer_means("run", names(3), shares)
