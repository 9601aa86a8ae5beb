"""Sentences about changes by depth say what the numbers decide, and nothing else."""

import re
from dataclasses import replace

import numpy as np
from depth_runs import HEADS, IMAGES, LAYERS, moved, run, tuned

from evaluation.statistics.depth import depth_changes
from evaluation.statistics.depth_words import block_names, depth_words, which_blocks


def test_words_say_which_blocks_changed_how_and_nothing_else():
    before, after = run(), moved(moved(tuned(), "entropy", 2, -0.05), "entropy", 3, -0.09)
    after = moved(after, "distance", 1, 0.12)
    words = depth_words(before, after, depth_changes(before, after))
    assert words[0] == (
        "From linear to lora (24 images, 1 training seed), attention or relevance changed in blocks 2 and 3; all "
        "changes are smaller than 0.02 of a measure's scale in block 0; undecided: block 1 (a difference of "
        "about 0.02, or not certain after correction)."
    )
    assert words[1].startswith("Attention is more focused in blocks 2 and 3, most in block 3: -0.0897")
    assert words[2].startswith("The reading row changed most in block ") and len(words) == 4
    assert words[3] == (
        "Tokens are least similar after block 3, with a linear CKA of 0.800 (1: the same up to "
        "rotation); it is 1.000 at the input."
    )


def test_words_of_no_change():
    before, after = run(), run("lora", seed=1)
    words = depth_words(before, after, depth_changes(before, after), depth_changes(before, after, by_head=True))
    assert words == [
        "From linear to lora (24 images, 1 training seed), no change of attention or relevance was found in any block; "
        "all changes are smaller than 0.02 of a measure's scale in blocks 0 to 3."
    ]
    without = [replace(one, measures={"entropy": one.measures["entropy"]}) for one in (before, after)]
    assert "no change of attention was found" in depth_words(*without, depth_changes(*without))[0]


def test_seeds_have_to_agree_about_a_block():
    """Changed in every seed to one side: changed; else undecided, and the sentence says why."""

    def words(*by):
        return which_blocks("before", "dora", [depth_changes(run(), moved(tuned(), "entropy", 1, one)) for one in by])

    assert "changed in block 1;" in words(0.05, 0.08) and "undecided" not in words(0.05, 0.08)
    for by in ((0.05, -0.05), (0.05, 0.0)):
        assert words(*by).endswith(
            "all changes are smaller than 0.02 of a measure's scale in blocks 0, 2 and 3; undecided: block 1 "
            "(seeds disagree)."
        )
    assert words(0.05, 0.02).endswith(
        "undecided: block 1 (a difference of about 0.02, or not certain after correction)."
    )
    noise = np.random.default_rng(5).normal(0, 0.3, (IMAGES, 1))
    assert re.search(
        r"undecided: block 1 \(smallest detectable: 0\.[12]\d\d of a measure's scale\)\.$", words(0.05, noise)
    )


def test_words_give_the_divergence_of_blocks_and_its_interval():
    after = replace(tuned(), divergence=np.full((IMAGES, LAYERS, HEADS), 0.1))
    after.divergence[:, 2, 0] += 0.3 + np.random.default_rng(0).normal(0, 0.01, IMAGES)
    sentence = next(one for one in depth_words(run(), after, depth_changes(run(), after)) if "Jensen" in one)
    assert "most in block 2, with a Jensen-Shannon divergence of 0.2" in sentence
    assert "least in block 0, with 0.100 [0.100, 0.100]" in sentence


def test_block_names():
    assert block_names([]) == "" and block_names(["3"]) == "block 3" and block_names(["3", "4"]) == "blocks 3 and 4"
    assert block_names(["0", "2", "3", "4", "9", "10"]) == "blocks 0, 2 to 4, 9 and 10"
    assert block_names(["5", "6", "7"]) == "blocks 5 to 7" and block_names(["pool"]) == "attention pooling"
    assert block_names(["10", "11", "pool"]) == "blocks 10, 11 and attention pooling"
