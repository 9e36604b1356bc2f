"""The readers behind probes: penalised linear maps, and a learned query that pools over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.analysis.intervals import explained
from wanlab.analysis.labels import Label, ProbeError, Split
from wanlab.core.nearest import suggestion
from wanlab.core.seeding import generator

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)     # half the squared weights times this, beside the mean loss of a clip
QUERIES, STEPS, RATE, PATIENCE = 4, 300, 0.03, 20
FLAT = 1e-6                             # standard deviations below this are of constants


@dataclass(frozen=True)
class Reader:
    """A fitted probe: `read` gives classes or numbers for features arranged as it was trained on. For steering, linear probes hold
    their weights in the units of the features, (outputs, width), the classes and the mean features of each."""

    read: Callable[[np.ndarray], np.ndarray]
    penalty: float
    weights: np.ndarray | None = None
    classes: tuple[Any, ...] | None = None
    means: np.ndarray | None = None

    def towards(self, name: Any) -> np.ndarray:
        """The direction (width) that raises a class over the mean of all, as long as the way from the mean of all clips to that of
        the class along it. ProbeError where the probe has no such weights."""
        if self.weights is None or self.means is None or self.classes is None:
            raise ProbeError("this probe gives no direction: take a linear probe of classes")
        if name not in self.classes:
            raise ProbeError(f"no class {name!r}{suggestion(str(name), list(map(str, self.classes)))}")
        at = self.classes.index(name)
        unit = self.weights[at] - self.weights.mean(0)
        unit = unit / np.linalg.norm(unit)
        return unit * abs(float((self.means[at] - self.means.mean(0)) @ unit))


def linear(x: np.ndarray, label: Label, split: Split, penalties: Sequence[float], seed: int) -> Reader:
    """Logistic or ridge regression of standardised features (clips, [frames,] width); validation chooses the penalty."""
    flat = x[split.train].reshape(-1, x.shape[-1])
    centre, scale = flat.mean(0), flat.std(0)
    scale = np.where(scale > FLAT, scale, np.inf)       # a constant feature says nothing
    fit = _logistic if label.classes is not None else _ridge
    found = [(fit((x[split.train] - centre) / scale, label.values[split.train], penalty), penalty) for penalty in sorted(penalties)]
    readers = [(lambda rows, read=read: read((rows - centre) / scale), penalty, weights) for (read, weights), penalty in found]
    read, penalty, weights = max(readers, key=lambda one: (_quality(one[0], x, label, split.validation), one[1]))
    means, classes = None, label.classes
    if classes is not None and x.ndim == 2:
        of = label.values[split.train]
        classes = tuple(np.unique(of).tolist())
        means = np.stack([x[split.train][of == one].mean(0) for one in classes])
    return Reader(read, penalty, weights / scale, classes, means)


def _logistic(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (penalty * len(x)), max_iter=5000, tol=1e-3).fit(x, y)
    weights = model.coef_ if len(model.classes_) > 2 else np.concatenate([-model.coef_, model.coef_]) / 2
    return model.predict, weights


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    from sklearn.linear_model import Ridge

    frames = x.ndim == 3
    rows, aims = (x.reshape(-1, x.shape[-1]), y.reshape(-1)) if frames else (x, y)
    model = Ridge(alpha=penalty * len(rows)).fit(rows, aims)

    def read(given: np.ndarray) -> np.ndarray:
        return model.predict(given.reshape(-1, given.shape[-1])).reshape(given.shape[:-1]) if frames else model.predict(given)

    return read, np.atleast_2d(model.coef_)


def _quality(read: Callable[[np.ndarray], np.ndarray], x: np.ndarray, label: Label, clips: np.ndarray) -> float:
    truth, found = label.values[clips], read(x[clips])
    if label.classes is not None:
        return float((truth == found).mean())
    return float(explained(truth.reshape(len(truth), -1), found.reshape(len(truth), -1))(np.ones((1, len(truth))))[0])


def attentive(x: np.ndarray, label: Label, split: Split, penalties: Sequence[float], seed: int) -> Reader:
    """A few queries that pool over tokens (clips, [frames,] tokens, width), and a linear map of what they pool; the penalty and the
    step of training are chosen on validation. Equal inputs give equal probes."""
    flat = x[split.train].reshape(-1, x.shape[-1])
    centre, scale = flat.mean(0), np.where(flat.std(0) > FLAT, flat.std(0), np.inf)
    tokens = torch.from_numpy((x - centre) / scale).float()
    classes = label.classes
    spread = 1.0
    if classes is not None:
        aims = torch.from_numpy(np.searchsorted(np.array(classes), label.values))
        outputs = len(classes)
        middle = np.zeros(1)
    else:
        numbers = label.values.reshape(len(x), -1)
        middle, spread = numbers[split.train].mean(0), float(numbers[split.train].std())
        aims = torch.from_numpy((numbers - middle) / spread).float()
        aims, outputs = (aims[..., None], 1) if x.ndim == 4 else (aims, aims.shape[1])
    found = [_trained(tokens, aims, outputs, split, penalty, seed) + (penalty,) for penalty in penalties]
    _, query, weight, bias, penalty = max(found, key=lambda one: (one[0], one[-1]))

    def read(given: np.ndarray) -> np.ndarray:
        out = _forward(torch.from_numpy((given - centre) / scale).float(), query, weight, bias).numpy()
        if classes is not None:
            return np.array(classes)[out.argmax(1)]
        return (out.reshape(len(given), -1) * spread + middle).reshape(-1, *label.values.shape[1:])

    return Reader(read, penalty)


def _forward(x: Tensor, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each query's mean over tokens, weighted by the softmax of its product with them; then a linear map."""
    share = torch.softmax(x @ query.T / x.shape[-1] ** 0.5, -2)                 # clip [frame] token query
    return (share.mT @ x).flatten(-2) @ weight.T + bias                         # clip [frame] output


def _trained(x: Tensor, aims: Tensor, outputs: int, split: Split, penalty: float, seed: int
             ) -> tuple[float, Tensor, Tensor, Tensor]:
    """Full-batch Adam (Kingma & Ba 2015) from equal shares; the best step on validation."""
    source = generator("attentive probe", seed)
    query = (0.1 * torch.randn(QUERIES, x.shape[-1], generator=source)).requires_grad_()
    weight = torch.zeros(outputs, QUERIES * x.shape[-1], requires_grad=True)
    bias = torch.zeros(outputs, requires_grad=True)
    descent = torch.optim.Adam([query, weight, bias], RATE)
    train, held = (torch.from_numpy(part) for part in (split.train, split.validation))
    loss_of: Any = F.cross_entropy if not aims.is_floating_point() else F.mse_loss
    best, since = (-np.inf, query.detach(), weight.detach(), bias.detach()), 0
    for _ in range(STEPS):
        loss = loss_of(_forward(x[train], query, weight, bias), aims[train]) + penalty / 2 * weight.square().sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
        with torch.no_grad():
            quality = -float(loss_of(_forward(x[held], query, weight, bias), aims[held]))
        since = 0 if quality > best[0] else since + 1
        if not since:
            best = (quality, *(one.detach().clone() for one in (query, weight, bias)))
        if since > PATIENCE:
            break
    return best
