"""Sparse dictionaries as files and as edits: what a feature gives is taken away exactly, and mistakes are told before a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core.models import Denoiser, start
from wanlab.core import Dictionary, DictionaryError, EditError, Feature, NotSerialisable, RecordError, Steer, edit_from_dict, trace

SITE = "blocks.0.out"


def held(features: int = 12, width: int = 8, k: int = 4, **about: str) -> Dictionary:
    draw = torch.Generator().manual_seed(1)
    encoder, decoder = torch.randn(2, features, width, generator=draw)
    return Dictionary(encoder, 0.1 * torch.randn(features, generator=draw), torch.nn.functional.normalize(decoder, dim=1),
                      torch.randn(width, generator=draw), torch.tensor(0.7), k, about)


def test_encoding_keeps_the_k_largest_that_are_positive() -> None:
    one, x = held(), torch.randn(5, 3, 8)
    a = one.encode(x)
    by_hand = torch.relu((x - one.centre) / 0.7 @ one.encoder.T + one.bias)
    order = by_hand.argsort(-1, descending=True)
    assert torch.allclose(a.gather(-1, order[..., :4]), by_hand.gather(-1, order[..., :4]), atol=1e-6)
    assert not a.gather(-1, order[..., 4:]).any() and ((a != 0).sum(-1) <= 4).all()
    assert torch.allclose(one.decode(a), one.centre + 0.7 * torch.einsum("...m,mc->...c", a, one.decoder), atol=1e-6)


def test_a_file_holds_all_of_it_and_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    one = held(site=SITE, weights="abc")
    path = one.save(tmp_path / "deep" / "one.safetensors")
    again = Dictionary.load(path)
    assert again == one and again.about == {"site": SITE, "weights": "abc"} and again.k == 4
    assert again.save(tmp_path / "two.safetensors").read_bytes() == path.read_bytes()
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (("other.safetensors", "not a saved dictionary"), ("none.safetensors", "no dictionary at")):
        with pytest.raises(DictionaryError, match=message):
            Dictionary.load(tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match="cannot be read as safetensors"):
        Dictionary.load(tmp_path / "cut.safetensors")
    with pytest.raises(DictionaryError, match=r"bias has shape \(3,\), not \(12,\)"):
        Dictionary(one.encoder, torch.zeros(3), one.decoder, one.centre, one.scale, 4)


def test_what_features_give_goes_and_everything_else_stays() -> None:
    """All features gone is the activation minus what the dictionary says of it; twice as strong, and it is there twice."""
    one, model = held(site="blocks.*.out"), Denoiser()
    with torch.no_grad(), trace(model, capture=SITE) as plain:
        model(start(2))
    x = plain.record[SITE, 0, "cond"].tensor
    said = one.decode(one.encode(x)) - one.centre
    for features, factor, expected in ((range(12), 0.0, x - said), (range(12), 2.0, x + said), ([3], 1.0, x),
                                       ([3], 0.0, x - 0.7 * one.encode(x)[..., 3:4] * one.decoder[3])):
        with torch.no_grad(), trace(model, [Feature(SITE, one, features, factor)], capture=SITE) as t:
            model(start(2))
        assert torch.allclose(t.record[SITE, 0, "cond"].tensor, expected, atol=1e-5)


def test_steering_along_a_feature_is_the_edit_that_there_was() -> None:
    one = held()
    assert Steer(SITE, direction=one.decoder[2], strength=3.0).to_dict()["direction"] == pytest.approx(one.decoder[2].tolist())


def test_mistakes_are_told_before_a_run(tmp_path: Path) -> None:
    one, model = held(site=SITE), Denoiser()
    for edit, message in ((Feature(SITE, one, [12]), "there is no feature 12; the dictionary has 12, from 0 on"),
                          (Feature("blocks.1.out", one, [1]), r"the dictionary is of blocks\.0\.out, not of blocks\.1\.out"),
                          (Feature(SITE, held(width=6), [1]), "of activations of 6 numbers")):
        with pytest.raises(EditError, match=message), torch.no_grad(), trace(model, [edit]):
            model(start(1))
    for parameters, message in (({"features": [1]}, "dictionary= is missing"), ({"dictionary": one}, r"features=\(\) is not"),
                                ({"dictionary": one, "features": 1, "factor": "no"}, "factor='no' is not a number"),
                                ({"dictionary": 3, "features": 1}, "is a Dictionary, the path of a saved one")):
        with pytest.raises(EditError, match=message):
            Feature(SITE, **parameters)
    with pytest.raises(NotSerialisable, match="save it"):
        Feature(SITE, one, 1).to_dict()
    told = Feature(SITE, one.save(tmp_path / "one.safetensors"), 1).to_dict()
    held(k=3).save(tmp_path / "one.safetensors")
    with pytest.raises(DictionaryError, match="has changed"):
        edit_from_dict(told)
