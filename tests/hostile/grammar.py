"""Selections, edits and masks as strings that mean something by half, and plain data of the wrong kinds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.hostile.studies import ODD
from wanlab.core import KINDS

SITES = [
    "generator.out",
    "fusion.attn.z",
    "generator.**.attn.*",
    "**",
    "*",
    "text.out",
    "a.{b,c}.d",
    "{a,{b,c}}",
    "generator..out",
    "x" * 300,
    "",
]
PARTS = [
    "heads=2",
    "heads=0|2",
    "frames=4:",
    "frames=[1,3]",
    "tokens=last",
    'words="a b"',
    "words=x",
    "mask=0110*2/0000",
    "mask=no.png",
    "rows=0",
    "heads=",
    "heads==2",
    "=2",
    "heads=99999999999999999999999",
    "frames=::0",
    "frames=a:b",
    "bogus=1",
    "mask=0*999999999999",
    'words="',
    "words=[",
    "heads=2,heads=3",
    "channels=-1",
    "units=1:2:3:4",
    "mask=01/0",
    "mask=2",
    "heads=1.5",
    "heads=²",
]
TIMES = [
    "steps=0:8",
    "steps=0.3:0.8",
    "sigma=0.1:0.9",
    "branch=cond",
    "steps=-1",
    "branch=",
    "sigma=9:1",
    "sigma=nan:1",
    "sigma=a",
    "heads=1",
    "steps=0:8,branch=uncond",
    "branch=cond|uncond",
    "steps=99999",
    "steps=",
    "steps",
    "sigma=0.1",
    "sigma=1e999:2",
]
LETTERS = st.text("abz_019.*{},|[]=:@\"'\\ \n\0é-/;", max_size=30) | st.text(max_size=12)
REPEATED = st.builds(
    lambda one, n: one * n,
    st.sampled_from(["{a,b}", "**.", "*", "[", "]", '"', "@", "a,", "a=1,", "{", "}", '\\"', "((", "0/", "1*9/", "="]),
    st.sampled_from([2, 30, 3000, 100_000]),
)


def selections() -> st.SearchStrategy[str]:
    """Strings that may be selections."""
    parts = st.lists(st.sampled_from(PARTS), max_size=3).map(",".join)
    times = st.lists(st.sampled_from(TIMES), max_size=2).map(",".join)
    built = st.builds(
        lambda site, part, time, form: form.format(site, part, time),
        st.sampled_from(SITES),
        parts,
        times,
        st.sampled_from(
            ["{0}[{1}]@{2}", "{0}[{1}]", "{0}@{2}", "{0}", "{0}[{1}@{2}", "{0}@{2}[{1}]", "[{1}]", "@{2}", "{0}[{1}][{1}]"]
        ),
    )
    return (
        built
        | built.flatmap(lambda text: st.builds(lambda at, more: text[:at] + more + text[at:], st.integers(0, len(text)), LETTERS))
        | (LETTERS | REPEATED)
    )


def edits() -> st.SearchStrategy[Any]:
    """Plain data that may be edits, as in a study file."""
    keys = [
        "kind",
        "at",
        "heads",
        "frames",
        "steps",
        "branch",
        "words",
        "mask",
        "sigma",
        "factor",
        "value",
        "record",
        "seed",
        "strength",
        "direction",
        "frame",
        "cutoff",
        "source",
        "std",
        "sd",
        "alpha",
        "order",
        "with",
        "function",
        "rows",
        "scale",
        "by",
        "key",
    ]
    odd = st.sampled_from(ODD)
    data = st.dictionaries(st.sampled_from(keys), odd, max_size=4)
    known = st.builds(
        lambda kind, at, more: {"kind": kind, "at": at, **more}, st.sampled_from([*KINDS, "nothing"]), selections(), data
    )
    return known | data | odd


def commands() -> st.SearchStrategy[str]:
    """What may stand after --edit."""
    inside = st.sampled_from(
        [
            "factor=2",
            "factor=",
            "factor",
            "=",
            "sd=x",
            "factor=[1,2]",
            "factor={",
            "factor=!!int a",
            "a=b,c=d",
            "]",
            "factor=&a [*a]",
        ]
    )
    kind = st.sampled_from([*KINDS, "no", ""])
    built = st.builds(
        lambda kind, part, form, at: form.format(kind, part, at),
        kind,
        inside,
        st.sampled_from(["{0}:{2}", "{0}[{1}]:{2}", "{0}[{1}:{2}", "{0}", ":{2}", "{0}[{1}]"]),
        selections(),
    )
    return built | LETTERS
