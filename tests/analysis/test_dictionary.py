"""Dictionaries of activations that are known sums of few known directions; controls; and what they find in the shipped cascade."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wanlab.analysis import dictionary
from wanlab.core import Dictionary

ATOMS, WIDTH, K = 32, 16, 2
SETTINGS = {"steps": 400, "batch": 128, "rate": 5e-3, "dead": 5_000}


def sums(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Directions, and rows that are sums of K of them with weights from 1 to 2, off centre, with a little noise."""
    draw = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, WIDTH, generator=torch.Generator().manual_seed(9)), dim=1)
    which = torch.rand(rows, ATOMS, generator=draw).topk(K, 1).indices
    a = torch.zeros(rows, ATOMS).scatter(1, which, 1 + torch.rand(rows, K, generator=draw))
    return atoms, a @ atoms + 0.5 + 0.02 * torch.randn(rows, WIDTH, generator=draw)


@pytest.fixture(scope="module")
def trained() -> Dictionary:
    return dictionary.train(sums(4000)[1].split(1000), 48, K, {"site": "net.out"}, **SETTINGS)


def test_directions_that_activations_were_made_of_are_found(trained: Dictionary) -> None:
    atoms, rows = sums(2000, seed=1)
    assert float(dictionary.recovered(trained, atoms).mean()) > 0.95
    table = dictionary.compare(trained, [rows])
    assert table.explained["dictionary"] > 0.9 > 0.6 > table.explained[f"pca of {K}"]
    assert table.explained["random"] < 0.6
    assert table.active["dictionary"] <= K and table.rows.eq(2000).all()
    assert float(dictionary.recovered(dictionary.random(trained), atoms).mean()) < 0.75, "chance is much lower"


def test_scores_are_those_of_their_definitions_and_do_not_depend_on_blocks(trained: Dictionary) -> None:
    rows = sums(900, seed=2)[1]
    whole, parts = (dictionary.score(trained, blocks) for blocks in ([rows], rows.split(137)))
    a = trained.encode(rows)
    error = (rows - trained.decode(a)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert whole.explained == pytest.approx(1 - float(error), abs=1e-5) and parts.explained == pytest.approx(whole.explained)
    assert whole.active == pytest.approx(float((a != 0).sum(1).double().mean())) and parts.active == whole.active
    assert whole.dead == parts.dead == pytest.approx(float((a == 0).all(0).double().mean()))


def test_a_pca_is_the_one_of_numpy(trained: Dictionary) -> None:
    import numpy as np

    rows = sums(500, seed=3)[1]
    basis = dictionary.pca(rows, 3)
    explained = dictionary.compare(trained, [rows], fit=rows).explained[f"pca of {K}"]
    singular = np.linalg.svd((rows - rows.mean(0)).double().numpy(), compute_uv=False) ** 2
    assert explained == pytest.approx(singular[:K].sum() / singular.sum(), abs=1e-4)
    assert torch.allclose(basis.directions @ basis.directions.T, torch.eye(3), atol=1e-5)


def test_equal_seeds_give_equal_bytes_and_decoders_keep_their_length() -> None:
    rows = sums(600)[1]
    one, again, other = (dictionary.train([rows], 24, K, steps=20, seed=seed) for seed in (0, 0, 1))
    assert one.bytes() == again.bytes() != other.bytes()
    assert torch.allclose(one.decoder.norm(dim=1), torch.ones(24), atol=1e-5)
    assert one.about["settings"]["steps"] == 20 and one.about["rows"] == 600


def test_dead_features_come_back_by_the_auxiliary_loss_alone() -> None:
    """Sixteen features start with encoders so short that they are never among the k largest."""
    rows = sums(2000)[1]
    start = torch.nn.functional.normalize(torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    start[16:] *= 0.01
    back = []
    for aux in (1 / 8, 0.0):
        how = dictionary.Settings(32, K, aux=aux, **{**SETTINGS, "steps": 150, "dead": 1000})
        made = dictionary._descend(rows - rows.mean(0), start, how, torch.Generator().manual_seed(0))
        held = Dictionary(made["encoder"], made["bias"], made["decoder"], rows.mean(0) + made["shift"], torch.tensor(1.0), K)
        back.append(int((held.encode(rows) != 0).any(0)[16:].sum()))
    assert back[0] >= 8 and back[1] <= 2


def test_a_reservoir_is_bounded_and_takes_every_row_alike() -> None:
    stream = torch.arange(3000.0)[:, None].split(70)
    drawn = torch.cat([dictionary.reservoir(stream, 100, seed) for seed in range(20)])
    assert len(dictionary.reservoir(stream, 100)) == 100 and len(dictionary.reservoir(stream, 5000)) == 3000
    assert float(drawn.mean()) == pytest.approx(1500, abs=75), "four standard errors: 866 / sqrt(2000)"


def test_what_cannot_be_trained_on_is_told() -> None:
    with pytest.raises(ValueError, match="no activations"):
        dictionary.train([], 4, 1)
    with pytest.raises(ValueError, match="all activations are equal"):
        dictionary.train([torch.ones(9, 3)], 4, 1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        dictionary.train([torch.full((9, 3), torch.nan)], 4, 1)
    with pytest.raises(ValueError, match="5 of 4 features cannot be active"):
        dictionary.train([torch.rand(9, 3)], 4, 5)


@pytest.mark.slow
def test_colours_of_the_first_frame_have_features_and_without_its_own_an_object_changes() -> None:
    """What the alignment says of each pixel: for each colour a feature that goes with it and with no other; taken away, or that of
    any object, the video changes inside the object more than outside, and far more than without another colour's."""
    from docs import findings

    held = findings.pixel_features(48, steps=700, rate=5e-3)
    seen = findings.coloured(held, 24)
    colours = ("red", "blue", "yellow", "green", "purple", "orange")
    best = {colour: seen.best(f"colour {colour}", 1) for colour in colours}
    apart = [colour for colour, one in best.items() if one[f"colour {colour}"].iloc[0] > 0.6 > 0.5 > one.rival.iloc[0]]
    assert len(apart) >= 4, "of six"
    numbers = {label: int(one.index[0]) for label, one in {**best, "inside": seen.best("inside", 1)}.items()}
    change = findings.ablated(held, numbers, 4).set_index(["feature", "where"]).change
    for feature in ("its colour", "any object"):
        assert change[feature, "inside"] > change[feature, "outside"]
        assert change[feature, "inside"] > 3 * change["another colour", "inside"]
