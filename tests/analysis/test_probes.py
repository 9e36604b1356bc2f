"""Probes on features whose contents are known, against scikit-learn, counting and chance; what cannot be probed is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from wanlab.analysis import labels as truth
from wanlab.analysis import probes
from wanlab.analysis.features import COLUMNS, Features
from wanlab.analysis.intervals import explained, interval, mean_of
from wanlab.analysis.labels import Label, ProbeError, Split

N, WAYS = 120, np.array(["down", "left", "up"])
WAY = WAYS[np.arange(N) % 3]


def normal(*size: int, seed: int = 0) -> np.ndarray:
    """Draws of a source of its own."""
    return np.random.default_rng(seed).normal(size=size)


PACE = normal(N, seed=100)


def block(values: np.ndarray, site: str = "a", step: int | None = 0, frames: bool = False) -> Features:
    """Features of N clips: (clips, width) or (clips, rows, width)."""
    rows = values.shape[1] if values.ndim == 3 else 1
    places = {name: np.full(N * rows, -1) for name in COLUMNS} | {"sample": np.repeat(np.arange(N), rows)}
    if frames:
        places["frame"] = np.tile(np.arange(rows), N)
    return Features(site, step, "cond", torch.from_numpy(values.reshape(N * rows, -1)).float(), places)


def told(noise: float = 0.3, width: int = 6, seed: int = 1) -> np.ndarray:
    """A width in which the way is a direction of its own and the pace another."""
    x = normal(N, width, seed=seed) * noise
    x[:, :3] += np.eye(3)[np.arange(N) % 3]
    x[:, 3] += PACE
    return 5 + 100 * x


def test_what_is_there_is_read_and_what_is_not_is_at_chance() -> None:
    silent = normal(N, 6)
    found = probes.linear([block(told()), block(silent, "b")], {"way": WAY, "pace": PACE})
    table = found.table.set_index(["site", "label"])
    assert list(found.table.columns[:10]) == ["site", "step", "branch", "label", "accuracy", "low", "high", "chance", "permuted",
                                              "control"]
    for label, chance in (("way", 0.45), ("pace", 0.2)):
        there, nowhere = table.loc[("a", label)], table.loc[("b", label)]
        assert there.accuracy > 0.85 and there.low > there.permuted and there.selectivity_low > 0.2
        assert nowhere.accuracy < chance and nowhere.low < nowhere.permuted, "the interval reaches into what chance gives"
        assert there.n == nowhere.n == 36 and there.n_train == 60
    assert table.loc[("a", "way")].score == "accuracy" and table.loc[("a", "pace")].score == "R2"
    assert table.loc[("a", "way")].chance == pytest.approx(1 / 3) and table.loc[("a", "pace")].chance == 0
    assert np.isclose(table.selectivity, table.accuracy - table.control).all()
    again = probes.linear([block(silent, "b")], {"way": WAY, "pace": PACE})
    assert again.table.equals(found.table[found.table.site == "b"].reset_index(drop=True)), "equal seeds, equal tables"


def test_chance_is_the_share_of_the_largest_class_whatever_the_split() -> None:
    """Of test clips alone the class that is frequent in training is rarer than it is: parts are drawn without replacement."""
    ways = np.array(["left"] * 50 + ["right"] * 40 + ["up"] * 30)
    for seed in range(3):
        [line] = probes.linear([block(normal(N, 2))], {"way": ways}, seed=seed, penalties=[1.0]).table.to_dict("records")
        assert line["chance"] == pytest.approx(50 / 120)


def test_a_score_is_that_of_the_fitted_model_on_clips_it_never_saw() -> None:
    """By hand: scikit-learn on the same split, standardised by the training clips, at the penalty that was chosen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, split = told(1.0), Split.draw(N, seed=3)
    [line] = probes.linear([block(x)], {"way": WAY}, split=split).table.to_dict("records")
    x = block(x).values.double().numpy()
    scores = {}
    for penalty in (1e-3, 1e-2, 1e-1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (penalty * len(split.train)), max_iter=5000))
        model.fit(x[split.train], WAY[split.train])
        scores[penalty] = [model.score(x[part], WAY[part]) for part in (split.validation, split.test)]
    assert scores[line["penalty"]][0] == max(score for score, _ in scores.values())
    assert line["accuracy"] == pytest.approx(scores[line["penalty"]][1], abs=1 / len(split.test))


def test_a_reader_with_room_learns_types_by_heart_and_selectivity_says_so() -> None:
    """With one feature for each type a probe reads any label, the random one too."""
    types = np.arange(N) % 12
    found = probes.linear([block(5.0 * np.eye(12)[types] + 0.1 * normal(N, 12))], {"way": WAYS[types % 3]}, types=types)
    [line] = found.table.to_dict("records")
    assert line["accuracy"] == line["control"] == 1.0 and line["selectivity"] == 0.0
    [fresh] = probes.linear([block(told())], {"way": WAY}).table.to_dict("records")
    assert fresh["control"] < 0.6, "where each clip is a type of its own, there is nothing to learn"


def test_numbers_of_frames_are_read_from_their_own_frame_and_classes_from_all() -> None:
    """A place that moves: of one frame it tells nothing about the way, of two it does."""
    start, pace = np.random.default_rng(2).uniform(size=N), np.where(np.arange(N) % 2, 0.2, -0.2)
    place = start[:, None] + pace[:, None] * np.arange(4)
    features = [block(np.stack([place, normal(N, 4)], -1), frames=True), block(place[:, :1], "first")]
    found = probes.linear(features, {"place": place, "way": np.where(pace > 0, "right", "left")}).table.set_index(["site", "label"])
    assert found.loc[("a", "place")].accuracy > 0.99 and found.loc[("a", "way")].accuracy > 0.95
    assert found.loc[("first", "way")].accuracy < 0.75 and 0 < found.loc[("first", "place")].accuracy < 0.9


def test_an_attentive_probe_finds_the_token_that_tells() -> None:
    """One token of ten carries the way; a mean over them is nearly silent, a query finds it."""
    tokens = normal(N, 10, 8)
    at = np.random.default_rng(3).integers(0, 10, N)
    tokens[np.arange(N), at] = 0
    tokens[np.arange(N), at, 0] = 6                                 # the mark by which it is found
    tokens[np.arange(N), at, 1 + np.arange(N) % 3] = 3
    [attentive] = probes.attentive([block(tokens)], {"way": WAY}, penalties=[0.01]).table.to_dict("records")
    [mean] = probes.linear([block(tokens.mean(1))], {"way": WAY}).table.to_dict("records")
    assert attentive["accuracy"] > 0.9 > mean["accuracy"] and attentive["control"] < 0.6
    twice = block(np.repeat(told()[:, None], 2, 1))
    [pace] = probes.attentive([twice], {"pace": PACE}, penalties=[0.01]).table.to_dict("records")
    assert pace["accuracy"] > 0.7 and pace["score"] == "R2"


def test_the_place_of_a_token_is_read_where_tokens_know_their_place() -> None:
    """A marked token walks over a line of six, one place in four frames; nothing but where it stands tells its place."""
    walk = np.random.default_rng(5).integers(0, 6, (N, 4))
    tokens = normal(N, 4, 6, 3, seed=6)
    tokens[..., 0] += 8 * (np.arange(6) == walk[..., None])
    order = np.random.default_rng(7).permutation(24)                # as drawn rows come
    one = block(tokens.reshape(N, 24, 3)[:, order])
    one.places.update(frame=np.tile(order // 6, N), w=np.tile(order % 6, N))
    placed, blind = (probes.attentive([one], {"place": walk / 6}, where=where, penalties=[0.001]) for where in (True, False))
    assert placed.table.accuracy[0] > 0.85 and blind.table.accuracy[0] < 0.2


def test_intervals_are_those_of_resampled_clips() -> None:
    right = (np.random.default_rng(4).uniform(size=50) < 0.7).astype(float)
    value, low, high = interval(mean_of(right), 50)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 50)
    assert value == right.mean() and abs(low - (value - 1.96 * error)) < 0.04 and abs(high - (value + 1.96 * error)) < 0.04
    from sklearn.metrics import r2_score

    real, found = normal(50, 3), normal(50, 3, seed=1)
    assert explained(real, found)(np.ones((1, 50)))[0] == pytest.approx(r2_score(real, found, multioutput="variance_weighted"))
    twice = np.zeros((1, 50))
    twice[0, :10] = 2
    rows = np.repeat(np.arange(10), 2)
    assert explained(real, found)(twice)[0] == pytest.approx(r2_score(real[rows], found[rows], multioutput="variance_weighted"))


def test_clips_are_parted_whole_and_every_class_is_in_each_part() -> None:
    split = Split.draw(60, [Label.of("way", WAY[:60], 60), Label.of("rare", np.array(["often"] * 52 + ["seldom"] * 8), 60)], seed=1)
    assert sorted(np.concatenate(list(split.parts.values()))) == list(range(60))
    assert [len(part) for part in split.parts.values()] == [30, 12, 18]
    assert all((part >= 52).sum() >= 2 for part in split.parts.values())


def test_the_truth_of_clips_as_labels() -> None:
    world = wanlab.World(size=16, frames=3, seed=1)
    clips = world.batch(range(4))
    labels = truth.of_truth(clips)
    assert [labels["motion"][i] for i in range(4)] == [world[i].factors["objects"][0]["motion"] for i in range(4)]
    assert labels["x"].shape == (4, 3) and labels["x"][2, 1] == pytest.approx(float(clips.tracks[2, 1, 1, 0]))
    assert labels["speed"].dtype == float and truth.types_of(labels)[0] == f"{labels['colour'][0]} {labels['shape'][0]}"
    clips.factors = None
    with pytest.raises(ProbeError, match="no truth"):
        truth.of_truth(clips)


@pytest.mark.parametrize(("labels", "message"), [
    ({"way": np.array(["odd", *WAY[1:]])}, "way: the class 'odd' has (one|no) member among the .* clips of (train|valid|test)"),
    ({"way": WAY[1:]}, "way: 119 labels for 120 clips: one for each"),
    ({"pace": np.where(np.arange(N) == 7, np.nan, PACE)}, "pace of clip 7 is not a finite number"),
    ({"way": np.full(N, "left")}, "way has one class, 'left'"),
    ({"pace": np.ones(N)}, "pace is the same for all clips"),
    ({"way": np.stack([WAY, WAY], 1)}, "classes are one for each clip"),
])
def test_labels_that_cannot_be_probed_are_told(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        probes.linear([block(told())], labels)


def test_features_and_splits_that_cannot_be_probed_are_told() -> None:
    lost = told()
    lost[3, 2] = np.nan
    with pytest.raises(ProbeError, match=r"a has NaN or infinite features \(step 0, branch cond\)"):
        probes.linear([block(lost)], {"way": WAY})
    with pytest.raises(ProbeError, match="no features to read"):
        probes.linear([], {"way": WAY})
    with pytest.raises(ProbeError, match="a has 4 rows for each clip: linear probes read means"):
        probes.linear([block(normal(N, 4, 2))], {"way": WAY})
    with pytest.raises(ProbeError, match="numbers for 3 frames, a 4 frames"):
        probes.linear([block(normal(N, 4, 2), frames=True)], {"place": normal(N, 3)})
    with pytest.raises(ProbeError, match="3 types for 120 clips"):
        probes.linear([block(told())], {"way": WAY}, types=[0, 1, 2])
    with pytest.raises(ProbeError, match="clip 1 is in both train and test"):
        Split(np.array([0, 1]), np.array([2, 3]), np.array([1, 4]))
    with pytest.raises(ProbeError, match="1 clips in test"):
        Split(np.array([0, 1]), np.array([2, 3]), np.array([4]))
    found = probes.linear([block(told())], {"way": WAY})
    with pytest.raises(LookupError, match="no probe of wya at a"):
        found.reader("a", "wya", 0)
    with pytest.raises(LookupError, match="nearest: way"):
        found.figure(["wya"])


def test_weights_give_the_direction_of_a_class() -> None:
    reader = probes.linear([block(told())], {"way": WAY, "pace": PACE}).reader("a", "way", 0)
    direction = reader.towards("left")
    assert abs(direction).argmax() == 1 and direction[1] > 0, "the channel that tells left"
    mean = told()[WAY == "left"].mean(0) - told().mean(0)
    assert np.linalg.norm(direction) == pytest.approx(mean @ direction / np.linalg.norm(direction), rel=0.2)
    with pytest.raises(ProbeError, match="nearest: left"):
        reader.towards("lefft")


def test_the_figure_shows_every_layer_step_and_label() -> None:
    blocks = [block(told(noise), site, step) for site, noise in (("generator.mid.resid_post", 0.5), ("b", 2.0)) for step in (0, 4)]
    found = probes.linear([*blocks, block(told(), "text.out", None)], {"way": WAY, "pace": PACE})
    figure = found.figure(note="made up")
    way, pace = figure.axes
    assert [text.get_text() for text in way.get_xticklabels()] == ["generator.mid", "b", "text.out"]
    assert (way.get_title(loc="left"), pace.get_title(loc="left")) == ("way", "pace")
    assert len(way.containers) == 3 and {text.get_text() for text in figure.legends[0].get_texts()} == {
        "step 0", "step 4", "outside the steps"}
    said = " ".join(text.get_text() for text in figure.texts)
    assert "n = 36 test clips" in said.replace("\n", " ") and "made up" in said
    only = found.figure(["pace"])
    assert len(only.axes) == 1 and only.axes[0].get_ylabel() == "R²"
