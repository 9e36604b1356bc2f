"""Captions name what they should, in few words from a small vocabulary."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wanlab.data.caption import MAX_WORDS, VOCABULARY, caption
from wanlab.data.motion import MOTIONS
from wanlab.data.procedural import World
from wanlab.data.shapes import COLOURS, SHAPES


def test_vocabulary_is_small_sorted_and_lower_case() -> None:
    assert len(VOCABULARY) <= 64
    assert sorted(set(VOCABULARY)) == VOCABULARY
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)


def test_captions_keep_to_vocabulary_and_length_and_every_word_occurs() -> None:
    rng, seen = np.random.default_rng(0), set()
    for shape, colour, motion in itertools.product(SHAPES, COLOURS, MOTIONS):
        thing = {"shape": shape, "colour": colour, "motion": motion}
        for things in ([thing], [thing, {"shape": "cross", "colour": "orange", "motion": "left"}]) * 4:
            words = caption(things, rng).split()
            assert len(words) <= MAX_WORDS
            seen |= set(words)
    assert seen == set(VOCABULARY)


def test_motions_have_paraphrases_that_no_other_motion_uses() -> None:
    rng = np.random.default_rng(0)
    said = {
        motion: {caption([{"shape": "star", "colour": "red", "motion": motion}], rng) for _ in range(300)}
        for motion in MOTIONS
    }
    assert all(len(sentences) >= 12 for sentences in said.values())
    for a, b in itertools.combinations(MOTIONS, 2):
        assert not said[a] & said[b]


def test_objects_are_named_in_slot_order_and_not_in_order_of_depth() -> None:
    nearer_first = []
    for index in range(300):
        scene, words = World(seed=2).scene(index)
        places = [words.split().index(thing.colour) for thing in scene.things]
        assert places == sorted(places)
        if len(places) == 2:
            nearer_first.append(scene.things[0].depth > scene.things[1].depth)
    assert 0.3 < np.mean(nearer_first) < 0.7


def test_an_orange_and_a_red() -> None:
    rng = np.random.default_rng(0)
    said = " ".join(caption([{"shape": "star", "colour": c, "motion": "up"}], rng) for c in COLOURS for _ in range(20))
    assert "an orange" in said
    assert "a orange" not in said
    assert "an red" not in said


def test_unknown_motion_is_named() -> None:
    with pytest.raises(KeyError, match="flies"):
        caption([{"shape": "star", "colour": "red", "motion": "flies"}], np.random.default_rng(0))
