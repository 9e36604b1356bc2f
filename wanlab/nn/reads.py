"""What can be read of an attention map beside the fused kernel, exactly and without the map.

With logits s = scale q k^T + bias and their log-sum-exp over the keys, every entry of the map is p = exp(s - lse). Then

    mass on groups of keys      P V with V = indicator columns; or exp(lse_group - lse) by one call for each group
    any linear statistic        P V with any other V (coordinates, their squares)
    entropy                     lse - scale q . (P K) - P bias
    received by a key           the roles swapped: queries K, keys Q, bias -lse; exp of the new log-sum-exp
    rows, columns, pairs        exp(s - lse), for what was asked

All are exact: no sampling, no renormalisation, memory of the size of q. On a CPU they are computed in float32 whatever the
model's precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.nn.backends import Grouped, attend_lse, choose, same_bytes

Index = Sequence[int] | None

BLOCK = 1024        # rows at a time, where rows are read block by block
PART = 4096         # keys at a time, where half precision is widened
HIDDEN = 1e4        # a key whose bias is lower than another's by so much has no mass in float32, whatever its logit


class Call:
    """One call of the attention operation: q b k n d, k b k j d, v b k j e; bias broadcasts to b k n j; scale times q k^T.

    What is read is computed when it is first asked for; nothing here takes part in a graph.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None,
                 lse: Tensor | None = None) -> None:
        self.given = q.detach(), k.detach(), v.detach()
        self.bias = None if bias is None else bias.detach()
        self.scale = q.shape[-1] ** -0.5 if scale is None else scale
        self._out: Tensor | None = None
        self.dense: Tensor | None = None        # the map b k n j that an edit put in the place of the model's: reads are of it
        if lse is not None:
            self.__dict__["lse"] = lse          # where it was kept

    # ------------------------------------------------------------------------------------------------ the call itself

    @cached_property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """Queries and keys as the reads take them: float32 on a CPU."""
        q, k, _ = self.given
        return (q.float(), k.float()) if q.device.type == "cpu" and q.dtype != torch.float64 else (q, k)

    @cached_property
    def _run(self) -> slice | None:
        """The longest run of keys that are alike to the last bit (padding): for reads they are one key."""
        return run_alike(self.given[1], self.bias)

    def _read(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """P V for values b k j u, and the log-sum-exp, by keys of which the alike ones are merged."""
        q, k = self._wide
        bias, values = self.bias, values.to(q.dtype)
        if self._run is not None:
            k, values, bias = merged(k, values, bias, self._run)
        return attend_lse(q, k, values, bias, self.scale)

    @property
    def rows(self) -> int:
        """Number of queries."""
        return self.given[0].shape[-2]

    @property
    def keys(self) -> int:
        """Number of keys."""
        return self.given[1].shape[-2]

    @cached_property
    def lse(self) -> Tensor:
        """Log-sum-exp of the logits, b k n, float32; where the fused kernel gives it, its output comes with it (`out`)."""
        q, k, v = self.given
        wide = self._wide
        if wide[0].dtype == q.dtype and v.shape[-1] == q.shape[-1]:
            out, lse = attend_lse(q, k, v, self.bias, self.scale)
            if same_bytes(q, k, v, self._spread(self.bias), self.scale):
                self._out = out
            return lse
        return self._read(wide[1][..., :1])[1]

    @property
    def out(self) -> Tensor:
        """The output, b k n e: that of scaled_dot_product_attention, unless keys were split (`split`)."""
        if self._out is None:
            q, k, v = self.given
            self._out = F.scaled_dot_product_attention(q, k, v, attn_mask=self._spread(self.bias), scale=self.scale)
        return self._out

    def _spread(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.expand(*self.given[0].shape[:-1], self.keys)

    # ------------------------------------------------------------------------------------------------ statistics over keys

    def weigh(self, values: Tensor) -> Tensor:
        """P V for values that broadcast to b k j u: any linear statistic over the keys, b k n u, float32."""
        _, k = self._wide
        if self.dense is not None:
            return self.dense.float() @ values.float()
        return self._read(values.expand(*k.shape[:-1], -1))[0].float()

    def mass(self, groups: Tensor, count: int) -> Tensor:
        """Mass of every query on groups of keys, b k n g. groups: of each key (j, or b j), 0 to count - 1, or -1 for none."""
        at = groups if groups.ndim == 1 else groups[:, None]
        q, _ = self._wide
        if self.dense is None and q.is_cuda and q.dtype != torch.float32 and groups.ndim == 1:
            return self._by_group(groups, count)        # columns would come back rounded to that precision
        return self.weigh((at[..., None] == torch.arange(count, device=groups.device)).to(q.dtype))

    def _by_group(self, groups: Tensor, count: int) -> Tensor:
        """The same by the log-sum-exp of each group, which is float32 in every kernel."""
        q, k = self._wide
        masses = []
        for group in range(count):
            at = (groups == group).nonzero()[:, 0]
            if not len(at):
                masses.append(torch.zeros_like(self.lse))
                continue
            _, lse = attend_lse(q, k[..., at, :], k[..., at, :], self._columns(at), self.scale)
            masses.append((lse - self.lse).exp())
        return torch.stack(masses, -1)

    def split(self, groups: Tensor, count: int) -> Tensor:
        """`mass` by calling the kernel once for each group of keys; the parts of the output are merged and become `out`.

        Every key must be in a group. The output is exact too, but rounds otherwise than the unsplit call (a few 1e-7
        relative): only those who asked for it get it. Head by head, so that a partial output is small. Where the groups follow
        each other and a kernel gives their mass in one pass, it is that one which is called, once.
        """
        q, k, v = self.given
        members = [(groups == group).nonzero()[:, 0] for group in range(count)]
        if sum(map(len, members)) != self.keys or v.shape[-1] != q.shape[-1]:
            raise ValueError("keys can be split where every key is in a group, and values are as wide as queries")
        kernel = choose(q, self.bias, grouped=True)
        if kernel.grouped is not None and (groups.diff() >= 0).all():
            return self._in_one_pass(kernel.grouped, [len(keys) for keys in members])
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        parts = q.new_full((*q.shape[:-1], count), float("-inf"), dtype=torch.float32)
        for head in range(q.shape[1]):
            at = slice(None), slice(head, head + 1)
            for group, keys in enumerate(members):
                if len(keys):
                    bias = None if self.bias is None else self._columns(keys, head)
                    part, parts[(*at, ..., group)] = attend_lse(
                        q[at], _take(k[at], keys), _take(v[at], keys), bias, self.scale)
                    _merge(out[at], lse[at], part, parts[(*at, ..., group)], first=group == _first(members))
        self._out = out
        self.__dict__["lse"] = lse
        return (parts - lse[..., None]).exp()

    def _in_one_pass(self, kernel: Grouped, sizes: Sequence[int]) -> Tensor:
        """The same from a kernel that keeps the sums at the borders of the groups; none of its groups is empty."""
        q, k, v = self.given
        self._out, self.__dict__["lse"], found = kernel(q, k, v, [size for size in sizes if size], self.scale)
        mass = found.new_zeros(*found.shape[:-1], len(sizes))
        mass[..., [group for group, size in enumerate(sizes) if size]] = found
        return mass

    def _columns(self, at: Tensor, head: int | None = None) -> Tensor | None:
        if self.bias is None:
            return None
        bias = self.bias if head is None or self.bias.shape[1] == 1 else self.bias[:, head: head + 1]
        bias = bias if bias.shape[-1] == 1 else bias[..., at]
        return bias.clamp(min=torch.finfo(self.given[0].dtype).min / 2)         # of a group that is hidden altogether too

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy of each query's map in nats, b k n: lse - scale q . (P K) - P bias, not below 0."""
        if self.dense is not None:
            return -torch.xlogy(self.dense, self.dense).sum(-1).float()
        q, k = self._wide
        values = torch.cat([k, self._bias_column()], -1) if self._bias_of_key else k
        mean, lse = self._read(values)
        h = lse - self.scale * (q.float() * mean[..., : k.shape[-1]]).sum(-1)
        if self._bias_of_key:
            h = h - mean[..., -1]
        elif self.bias is not None:
            h = h - self._mean_bias()
        return h.clamp(min=0)

    @property
    def _bias_of_key(self) -> bool:
        """Whether there is a bias, and it is one number for each key."""
        return self.bias is not None and self.bias.shape[-2] == 1

    def _bias_column(self) -> Tensor:
        """The bias as a column of values, b k j 1; that of hidden keys, which have no mass, as 0."""
        _, k = self._wide
        column = self.bias[..., 0, :, None]             # type: ignore[index]
        hidden = column < column.amax(-2, keepdim=True) - HIDDEN
        return torch.where(hidden, 0.0, column).to(k.dtype).expand(*k.shape[:-1], 1)

    def _mean_bias(self) -> Tensor:
        """P bias, where the bias differs from query to query: it is as large as the map, which is read block by block."""
        bias, parts = self._spread(self.bias), []
        for start in range(0, self.rows, BLOCK):
            rows = range(start, min(start + BLOCK, self.rows))
            p = self.entries(rows=rows)
            parts.append((p * torch.where(p > 0, bias[..., rows.start: rows.stop, :], 0.0)).sum(-1))   # type: ignore[index]
        return torch.cat(parts, -1)

    # ------------------------------------------------------------------------------------------------ statistics over queries

    @cached_property
    def received(self) -> Tensor:
        """What every key gets of all queries together, b k j: the sums of the map's columns."""
        q, _ = self._wide
        return self._swapped(q[..., :1])[1] if self.dense is None else self.dense.float().sum(-2)

    def flow(self, weights: Tensor) -> Tensor:
        """r P for weights r of the queries that broadcast to b k n u: what flows to each key, b k j u."""
        if self.dense is not None:
            return self.dense.float().transpose(-1, -2) @ weights.float()
        out, received = self._swapped(weights)
        return out * received[..., None]

    def _swapped(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attention from keys to queries with bias -lse: the mean of `values` by the map's columns, and the columns' sums."""
        q, k = self._wide
        bias = -self.lse[..., None, :]
        if self.bias is not None and not self._bias_of_key:
            bias = bias + self._spread(self.bias).transpose(-1, -2)     # type: ignore[union-attr]
        out, lse = attend_lse(k, q, values.to(q.dtype), bias, self.scale)
        if self._bias_of_key:
            lse = lse + self.bias[..., 0, :]                            # type: ignore[index]
        return out.float(), lse.exp()

    # ------------------------------------------------------------------------------------------------ entries

    def entries(self, rows: Index = None, columns: Index = None, heads: Index = None, batch: Index = None) -> Tensor:
        """Some rows and columns of the map of some heads, b k n j, float32: of the model's own map, not renormalised."""
        q, k, _ = self.given
        at = dict(enumerate(None if one is None else torch.as_tensor(list(one), device=q.device)
                            for one in (batch, heads, rows, columns)))
        if self.dense is not None:
            return _at(self.dense, at).float()
        logits = products(_at(q, at, (0, 1, 2)), _at(k, {0: at[0], 1: at[1], 2: at[3]}), self.scale)
        logits = logits if self.bias is None else logits + _at(self.bias, at)
        if columns is None:
            return torch.softmax(logits, -1)
        return (logits - _at(self.lse, at, (0, 1, 2))[..., None]).exp()


def products(q: Tensor, k: Tensor, scale: float = 1.0) -> Tensor:
    """(scale q) k^T in float32, of b k n d and b k j d; rounded as the dense map is. Keys in half precision are widened in parts
    that stay in the cache, in one place: twice as fast as a wide copy of all of them, and without its memory."""
    if q.dtype in (torch.float32, torch.float64):
        return ((scale * q) @ k.transpose(-1, -2)).float()
    if q.shape[-2] > k.shape[-2]:
        return products(k, q, scale).transpose(-1, -2)
    q, keys = scale * q.float(), k.shape[-2]
    out, wide = q.new_empty(*q.shape[:-1], keys), q.new_empty(q.shape[0], min(PART, keys), k.shape[-1])
    for head in range(q.shape[1]):
        for start in range(0, keys, PART):
            part = wide[:, : keys - start]
            part.copy_(k[:, head, start: start + PART])
            torch.bmm(q[:, head], part.transpose(-1, -2), out=out[:, head, :, start: start + PART])
    return out


def _at(x: Tensor, at: Mapping[int, Tensor | None], axes: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    """Some positions of some axes; an axis of 1 spreads."""
    for axis in axes:
        index = at.get(axis)
        if index is not None and x.shape[axis] > 1:
            x = x.index_select(axis, index)
    return x


def _take(x: Tensor, at: Tensor) -> Tensor:
    """Some tokens of b k n d; where they follow each other, without a copy."""
    first, last = int(at[0]), int(at[-1])
    return x[..., first: last + 1, :] if last - first + 1 == len(at) else x[..., at, :]


def _first(members: Sequence[Tensor]) -> int:
    return next(i for i, keys in enumerate(members) if len(keys))


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor, first: bool) -> None:
    """Take a group's output and log-sum-exp into those of the groups before it, in place."""
    if first:
        out.copy_(part)
        lse.copy_(part_lse)
        return
    both = torch.logaddexp(lse, part_lse)
    out.lerp_(part, (part_lse - both).exp()[..., None].to(out.dtype))
    lse.copy_(both)


def run_alike(k: Tensor, bias: Tensor | None) -> slice | None:
    """The longest run of keys (… j d) that are identical to the last bit in every row and head, in a bias too; None: no two."""
    if bias is not None and bias.shape[-2] > 1 and bias.shape[-1] > 1:
        return None
    same = (k[..., 1:, :] == k[..., :-1, :]).flatten(0, -3).all(-1).all(0)
    if bias is not None and bias.shape[-1] > 1:
        same &= (bias[..., 1:] == bias[..., :-1]).flatten(0, -2).all(0)
    ends = [-1, *(~same).nonzero()[:, 0].tolist(), len(same)]
    length, last = max((after - before, after) for before, after in pairwise(ends))
    return slice(last - length + 1, last + 1) if length > 1 else None


def merged(k: Tensor, values: Tensor, bias: Tensor | None, run: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and bias with a run of identical keys as one, whose bias tells their number (its logarithm).

    Attention to what comes back is attention to what was given, as identical keys have equal mass: the merged key has that of
    all, and the mean of their values. For reads; the output of the model is never made so.
    """
    keep = torch.cat([torch.arange(run.start + 1), torch.arange(run.stop, k.shape[-2])]).to(k.device)
    values = torch.cat([values[..., : run.start, :], values[..., run, :].mean(-2, keepdim=True), values[..., run.stop:, :]], -2)
    count = torch.zeros(len(keep), device=k.device, dtype=k.dtype)
    count[run.start] = math.log(run.stop - run.start)
    kept = 0.0 if bias is None else bias if bias.shape[-1] == 1 else bias[..., keep]
    return k[..., keep, :], values, (count + kept).expand(1, 1, 1, -1) if bias is None else count + kept
