"""Embeddings of time: the sines of the paper, and a vector that tells noise levels apart."""

from __future__ import annotations

import math

import pytest
import torch

from wanlab.core import Zero, trace
from wanlab.nn.embed import TimeEmbedding, sinusoid


def test_sines_and_cosines_of_the_formula() -> None:
    out = sinusoid(torch.tensor([0.0, 2.5, 40.0]), 8)
    for row, position in zip(out, (0.0, 2.5, 40.0), strict=True):
        phases = [position / 10_000 ** (i / 4) for i in range(4)]
        expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_shift_is_a_rotation_so_the_likeness_of_two_places_depends_on_their_distance() -> None:
    out = sinusoid(torch.arange(20), 16, 100.0)
    likeness = out @ out.T
    for distance in range(5):
        diagonal = likeness.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_any_shape_of_positions() -> None:
    assert sinusoid(torch.rand(2, 3), 6).shape == (2, 3, 6)


def test_levels_are_embedded_row_by_row_and_neighbours_are_near() -> None:
    module = TimeEmbedding(32)
    sigma = torch.tensor([0.1, 0.101, 0.9])
    out = module(sigma)
    assert torch.allclose(out[:1], module(sigma[:1]), atol=1e-6)
    assert (out[0] - out[1]).norm() < 0.5 * (out[0] - out[2]).norm()


def test_it_can_be_cut() -> None:
    module = TimeEmbedding(8)
    with trace(module, edits=[Zero("out")]):
        assert not module(torch.tensor([0.5])).any()
