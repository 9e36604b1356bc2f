"""The kernel of `wanlab.nn.flush`: imported where Triton is."""

import triton
import triton.language as tl


@triton.jit
def kernel(Q, K, V, Out, Row, Groups, Borders, n, j, scale,  # type: ignore[no-untyped-def]
           GROUPS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
           KEYS: tl.constexpr, PRECISE: tl.constexpr):
    """One block of ROWS queries of one head against all keys."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.arange(0, PADDED)
    here = (rows[:, None] < n) & (units[None, :] < WIDTH)
    at = head * n * WIDTH + rows[:, None] * WIDTH + units[None, :]
    q = tl.load(Q + at, mask=here, other=0.0)

    maximum = tl.full([ROWS], -float("inf"), tl.float32)     # of the row so far
    total = tl.zeros([ROWS], tl.float32)                     # of exp(logit - maximum), of the row so far
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    for group in range(GROUPS):
        start, stop = tl.load(Borders + group), tl.load(Borders + group + 1)
        since = tl.zeros([ROWS], tl.float32)                 # the same sum since the last border
        for first in range(start, stop, KEYS):
            keys = first + tl.arange(0, KEYS)
            there = (keys[:, None] < stop) & (units[None, :] < WIDTH)
            of = head * j * WIDTH + keys[:, None] * WIDTH + units[None, :]
            k = tl.load(K + of, mask=there, other=0.0)
            v = tl.load(V + of, mask=there, other=0.0)
            if PRECISE:
                logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            else:
                logits = tl.dot(q, tl.trans(k)) * scale
            logits = tl.where(keys[None, :] < stop, logits, -float("inf"))
            higher = tl.maximum(maximum, tl.max(logits, 1))
            shrink = tl.exp(maximum - higher)
            p = tl.exp(logits - higher[:, None])
            added = tl.sum(p, 1)
            total, since = total * shrink + added, since * shrink + added
            acc = acc * shrink[:, None]
            if PRECISE:
                acc += tl.dot(p, v, input_precision="ieee")
            else:
                acc += tl.dot(p.to(v.dtype), v)
            maximum = higher
        # a group far below the maximum may have a sum of 0: its mass is 0, and log gives -inf
        tl.store(Groups + (head * n + rows) * GROUPS + group, tl.log(since) + maximum, mask=rows < n)
    tl.store(Row + head * n + rows, tl.log(total) + maximum, mask=rows < n)
    tl.store(Out + at, (acc / total[:, None]).to(Out.dtype.element_ty), mask=here)
