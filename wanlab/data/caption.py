"""What the captions can say: a small grammar with paraphrases, in lower-case words.

A caption names shape, colour and motion of every object, in slot order; never its size, place, speed, phase, direction
of turning, or the wind: those are latent, and all frames have to agree on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wanlab.data.shapes import COLOURS, SHAPES

MAX_WORDS = 20


def _heading(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    to = f"to the {word}" if word in ("left", "right") else word
    return (
        (f"moves {word}", f"moves {to}", f"goes {word}", f"goes {to}", f"slides {word}"),
        (f"moving {word}", f"moving {to}", f"going {to}", f"sliding {to}"),
    )


# motion -> (finite forms: "a red circle [that] grows"; participles: "a red circle [is] growing")
_PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **{word: _heading(word) for word in ("left", "right", "up", "down")},
    "grows": (("grows", "gets bigger", "becomes larger"), ("growing", "getting bigger", "becoming larger")),
    "shrinks": (("shrinks", "gets smaller", "becomes smaller"), ("shrinking", "getting smaller", "becoming smaller")),
    "rotates": (("rotates", "spins", "turns around"), ("rotating", "spinning", "turning around")),
    "circles": (("circles", "orbits", "moves in a loop"), ("circling", "orbiting", "moving in a loop")),
    "bounces": (("bounces", "hops"), ("bouncing", "hopping")),
}
_LINKS = ("{subject} {finite}", "{subject} that {finite}", "{subject} is {participle}", "{subject} {participle}")
_JOINTS = ("and", "while")


def _clause(thing: Mapping[str, object], rng: np.random.Generator) -> str:
    finite, participle = _PHRASES[str(thing["motion"])]
    article = ("the", "an" if thing["colour"] == "orange" else "a")[rng.integers(2)]
    return _LINKS[rng.integers(len(_LINKS))].format(
        subject=f"{article} {thing['colour']} {thing['shape']}",
        finite=finite[rng.integers(len(finite))],
        participle=participle[rng.integers(len(participle))],
    )


def caption(objects: Sequence[Mapping[str, object]], rng: np.random.Generator) -> str:
    """One of many sentences for these objects (mappings with `shape`, `colour`, `motion`), at most MAX_WORDS words.

    Raises KeyError for an unknown motion.
    """
    joint = f" {_JOINTS[rng.integers(len(_JOINTS))]} "
    return joint.join(_clause(thing, rng) for thing in objects)


def _vocabulary() -> list[str]:
    phrases = [phrase for forms in _PHRASES.values() for form in forms for phrase in form]
    words = {word for phrase in phrases for word in phrase.split()}
    return sorted(words | {"a", "an", "the", "that", "is", *_JOINTS, *COLOURS, *SHAPES})


VOCABULARY: list[str] = _vocabulary()
"""Every word a caption can contain, sorted."""
