"""Sites: declared once, listed with paths, refused when they do not fit; patterns and nearest names."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.models import Denoiser, start
from wanlab.core import Hookable, PatternError, Probe, Sites, UnknownSite, Zero, nearest, sites_of, trace
from wanlab.core.pattern import matches


def test_names_are_paths_and_axes_are_those_of_the_instance() -> None:
    sites = sites_of(Denoiser())
    assert "blocks.1.temporal.z" in sites and "picture" in sites
    assert sites["blocks.0.temporal.z"].axes == ("b", "n", "k", "f", "d")
    assert sites["blocks.0.spatial.z"].axes == ("b", "f", "k", "n", "d")
    assert len(sites) == 3 + 2 * (2 + 2 * 2)


def test_sites_narrow_and_print_as_a_tree() -> None:
    sites = sites_of(Denoiser())
    assert sites.narrow("blocks.*.spatial.z").names == ["blocks.0.spatial.z", "blocks.1.spatial.z"]
    assert len(sites.narrow("nothing")) == 0
    assert sites[:2] == Sites(list(sites)[:2])
    text = str(sites.narrow("blocks.0.**"))
    assert text.splitlines()[:3] == ["6 sites", "  blocks  (6)", "    0  (6)"] and "temporal  (2)" in text


def test_a_pattern_that_matches_nothing_names_three_near_sites() -> None:
    with pytest.raises(UnknownSite, match=r"no site matches 'blocks.0.spatail.z'.*nearest: blocks.0.spatial.z, .*, "):
        sites_of(Denoiser()).find("blocks.0.spatail.z")


@pytest.mark.parametrize(("pattern", "name", "expected"), [
    ("**", "a.b.c", True), ("a.**", "a", False), ("a.**", "a.b.c", True), ("a.**.z", "a.z", True), ("**.z", "z", True),
    ("a.**.z", "a.b.c.z", True), ("a.*.z", "a.b.c.z", False), ("a.*.z", "a.b.z", True), ("a.{b,c*}.z", "a.cx.z", True),
    ("a.{b,c}.z", "a.d.z", False), ("a.{b,c.d}.z", "a.c.d.z", True), ("a", "ab", False), ("a.z", "axz", False),
])
def test_globs(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["", "a..b", "a.{b", "a.b}", "a.b**"])
def test_broken_globs_raise(pattern: str) -> None:
    with pytest.raises(PatternError):
        matches(pattern, "a.b")


@given(st.lists(st.text("abc_0", min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_replacing_segments_by_stars_still_matches(segments: list[str], data: st.DataObject) -> None:
    pattern = [data.draw(st.sampled_from([one, "*", "**"])) for one in segments]
    assert matches(".".join(pattern), ".".join(segments))
    assert matches(".".join([*pattern, "zz"]), ".".join(segments)) is False


def test_a_probe_learns_shapes_and_clock_and_leaves_nothing() -> None:
    model = Denoiser()
    with Probe(model) as probe:
        model(start(), steps=1)
    assert probe.sites["blocks.0.temporal.pattern"].shape == (3, 5, 2, 4, 4)
    assert probe.sites["text"].clock == {"branch"} and probe.sites["latent"].clock == {"step"}
    assert probe.sites["picture"].clock == frozenset()
    assert not any("_taps" in vars(module) for module in model.modules())


class Wrong(Hookable):
    SITES = {"out": "b c"}

    def forward(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.site(name, x)


def test_firing_what_is_not_declared_or_has_other_axes_raises_while_tapped() -> None:
    module, x = Wrong(), torch.zeros(2, 3)
    assert module(x, "ouput") is x
    with Probe(module), pytest.raises(UnknownSite, match=r"Wrong fires the site 'ouput'.*nearest: out"):
        module(x, "ouput")
    with Probe(module), pytest.raises(ValueError, match=r"axes 'b c' but fires with shape \(2, 3, 1\)"):
        module(x[..., None], "out")


def test_copies_and_pickles_of_a_traced_module_are_not_traced() -> None:
    model = Denoiser()
    with trace(model, Zero("picture"), strict=False):
        for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert "_taps" not in vars(other)
    assert "_taps" not in model.state_dict()


def test_nearest_ranks_by_likeness() -> None:
    assert nearest("hed", ["tail", "head", "heads"], 2) == ["head", "heads"]


def test_two_sites_of_one_name_are_refused() -> None:
    class Twice(Wrong):
        SITES = {"inner.out": "b c"}

    module = Twice()
    module.inner = Wrong()
    with pytest.raises(ValueError, match=r"two sites have one name: inner.out"):
        sites_of(module)
