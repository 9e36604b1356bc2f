"""One transformer block of the size of Wan2.1-1.3B's: ours, ours with its guards compiled out, and for the peers.

`peer` writes the same maths with the same weights around modules at the same twelve places: HookPoints for
TransformerLens, identities for nnsight. `bare` makes the twin without guards, a copy that shares all weights: in the
syntax tree of each method `self.site(name, x, ...)` becomes `x`, `self.listening(...)` becomes False, what can then not
be reached is dropped, and the method is compiled again.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.attention import Attention
from wanlab.nn.spacetime import MLP

STREAM = "b n c"
GUARDS = {"site", "listening"}
# The twelve tensors by the names of our sites, in the order in which they flow; a peer's modules have _ for the dot.
TWELVE = ("resid_pre", "normed", "attn.q", "attn.k", "attn.v", "attn.z", "attn.out", "resid_mid",
          "mlp.pre", "mlp.post", "mlp.out", "resid_post")
POINTS = tuple("hook_" + name.replace(".", "_") for name in TWELVE)

M = TypeVar("M", bound=nn.Module)


class Block(Hookable):
    """Self-attention and an MLP around a residual stream b n c, made of the parts that every stage is made of."""

    SITES = dict.fromkeys(("resid_pre", "normed", "resid_mid", "resid_post"), STREAM)

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), Attention(width, heads, STREAM)
        self.mlp = MLP(width, hidden, STREAM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.site("resid_pre", x)
        y = self.site("normed", self.norm(x))
        x = self.site("resid_mid", x + self.attn(y))
        return self.site("resid_post", x + self.mlp(x))


class Chain(Hookable):
    """Twelve sites in a row and nothing else; one of them states an identity, as in the block."""

    SITES = dict.fromkeys("abcdefghijkl", "b c")

    def forward(self, x: Tensor) -> Tensor:
        x = self.site("a", x)
        x = self.site("b", x)
        x = self.site("c", x)
        x = self.site("d", x)
        x = self.site("e", x)
        x = self.site("f", x)
        x = self.site("g", x)
        x = self.site("h", x)
        x = self.site("i", x)
        x = self.site("j", x)
        x = self.site("k", x, identity=lambda: torch.zeros_like(x))
        return self.site("l", x)


def peer(block: Block, base: type[nn.Module], point: Callable[[], nn.Module]) -> nn.Module:
    """The block's maths with its own weights and a `point()` at each of the twelve places, below the class `base`."""
    own, heads = sharing(block), block.attn.heads       # modules of its own: a library may leave things on them

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(-2, -3)

    class Peer(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = _plain(own.norm), _plain(own.mlp.norm)
            self.q, self.k, self.v, self.o = own.attn.q, own.attn.k, own.attn.v, own.attn.o
            self.up, self.down = own.mlp.up, own.mlp.down
            for name in POINTS:
                setattr(self, name, point())

        def forward(self, x: Tensor) -> Tensor:
            x = self.hook_resid_pre(x)
            y = self.hook_normed(self.norm1(x))
            q = self.hook_attn_q(split(self.q(y)))
            k = self.hook_attn_k(split(self.k(y)))
            v = self.hook_attn_v(split(self.v(y)))
            z = self.hook_attn_z(F.scaled_dot_product_attention(q, k, v))
            x = self.hook_resid_mid(x + self.hook_attn_out(self.o(z.transpose(-2, -3).flatten(-2))))
            post = self.hook_mlp_post(F.gelu(self.hook_mlp_pre(self.up(self.norm2(x)))))
            return self.hook_resid_post(x + self.hook_mlp_out(self.down(post)))

    return Peer().eval()


def _plain(norm: nn.LayerNorm) -> nn.LayerNorm:
    """torch's own layer with the weights of a norm that may have sites."""
    layer = nn.LayerNorm(norm.normalized_shape, norm.eps)
    layer.weight, layer.bias = norm.weight, norm.bias
    return layer


def sharing(module: M) -> M:
    """A copy of the modules with the same weights in memory."""
    return copy.deepcopy(module, {id(weight): weight for weight in (*module.parameters(), *module.buffers())})


def bare(module: M) -> M:
    """A copy with the same weights and no site in its code. Raises TypeError where a method cannot be rewritten."""
    twin = sharing(module)
    for part in twin.modules():
        if isinstance(part, Hookable):
            part.__class__ = _without_guards(type(part))
    return twin


def _without_guards(kind: type[Hookable]) -> type[Hookable]:
    methods: dict[str, Any] = {}
    for parent in kind.__mro__[: kind.__mro__.index(Hookable)]:
        for name, method in vars(parent).items():
            if isinstance(method, FunctionType) and GUARDS & set(method.__code__.co_names):
                methods.setdefault(name, _rewritten(method))
    return type(f"Bare{kind.__name__}", (kind,), methods)


def _rewritten(method: FunctionType) -> FunctionType:
    """The method without guards, compiled inside a function that hands it its outer names (super() needs one)."""
    inner = _Guardless().visit(ast.parse(textwrap.dedent(inspect.getsource(method)))).body[0]
    cells = dict(zip(method.__code__.co_freevars, (cell.cell_contents for cell in method.__closure__ or ()), strict=True))
    outer = ast.parse(f"def outer({', '.join(cells)}):\n    return {inner.name}")
    outer.body[0].body.insert(0, inner)  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(outer), inspect.getfile(method), "exec"), method.__globals__, found)
    twin: FunctionType = found["outer"](**cells)
    if GUARDS & set(twin.__code__.co_names):
        raise TypeError(f"{method.__qualname__} names a site in a form that is not known here")
    return twin


class _Guardless(ast.NodeTransformer):
    """self.site(name, x, ...) -> x; self.listening(...) -> False, and what can then not be reached goes; no x = x."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = ast.unparse(node.func)
        return node.args[1] if called == "self.site" else ast.Constant(False) if called == "self.listening" else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        known = isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant)
        return ast.Constant(not node.operand.value) if known else node  # type: ignore[attr-defined]

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        self.generic_visit(node)
        return (node.body if node.test.value else node.orelse) if isinstance(node.test, ast.Constant) else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        self.generic_visit(node)
        return None if [ast.unparse(target) for target in node.targets] == [ast.unparse(node.value)] else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        ends = [place for place, statement in enumerate(node.body, 1) if isinstance(statement, ast.Return)]
        node.body = node.body[: ends[0]] if ends else node.body
        return node
