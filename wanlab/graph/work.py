"""Work: the pieces of several cells on one batch, what they share, and which of them run as rows of one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .keys import digest
from .piece import Piece

Pack = tuple[str, ...]      # keys of pieces that run together


@dataclass(frozen=True)
class Work:
    """pieces: by key, each after what it needs; packs: for each key those that run with it, itself included; results: cell -> the
    key of its last piece."""

    pieces: Mapping[str, Piece]
    packs: Mapping[str, Pack]
    results: Mapping[str, str]

    @classmethod
    def of(cls, cells: Mapping[str, Sequence[Piece]], size: int = 1) -> Work:
        """The work of `cells` (their pieces in order); `size`: of how many cells pieces are joined to one batch, where they can be.

        A piece that runs with others has a key of its own, which names them: the batch is part of what decides its bytes.
        """
        unique: dict[str, Piece] = {}
        for piece in (piece for mine in cells.values() for piece in mine):
            unique.setdefault(piece.key, piece)
        results = {cell: mine[-1].key for cell, mine in cells.items()}
        if size == 1:
            return cls(unique, {key: (key,) for key in unique}, results)
        pieces, packs, names = _packed(unique.values(), size)
        return cls(pieces, packs, {cell: names[key] for cell, key in results.items()})

    def ends(self, cell: str) -> dict[str, str]:
        """The key of each node's outputs, of those that the result of `cell` follows from."""
        found, todo = {}, [self.results[cell]]
        while todo:
            piece = self.pieces[todo.pop()]
            if piece.until is None:
                found[piece.node] = piece.key
            todo += [key for key in piece.needs if self.pieces[key].node not in found]
        return found

    def needed(self, cells: Iterable[str]) -> Counter[str]:
        """How often each key is read when these cells are made and nothing is there yet; also those that nobody reads but that
        run with others (0)."""
        counts = Counter(self.results[cell] for cell in cells)
        todo, seen = list(counts), set()
        while todo:
            pack = self.packs[todo.pop()]
            if pack in seen:
                continue
            seen.add(pack)
            for key in pack:
                counts[key] += 0
                counts.update(self.pieces[key].needs)
                todo += self.pieces[key].needs
        return counts

    def runs(self, cells: Iterable[str]) -> Iterator[tuple[Pack, list[Piece]]]:
        """The stage runs that making these cells takes, each with its pieces."""
        needed = self.needed(cells)
        for pack in dict.fromkeys(self.packs[key] for key in self.pieces if key in needed):
            yield pack, [self.pieces[key] for key in pack]


def _packed(pieces: Iterable[Piece], size: int) -> tuple[dict[str, Piece], dict[str, Pack], dict[str, str]]:
    """Pieces and packs by the keys that packs give them, and those keys by the old ones."""
    order: dict[str, int] = {}                                      # of the nodes, each after its inputs
    levels: dict[tuple[int, int, str], list[Piece]] = {}            # whatever a piece needs stands on an earlier level
    for piece in pieces:
        place = order.setdefault(piece.node, len(order))
        alike = piece.alike if piece.alike is not None and piece.local else piece.key
        levels.setdefault((place, piece.start, alike), []).append(piece)
    found: dict[str, Piece] = {}
    packs: dict[str, Pack] = {}
    renamed: dict[str, str] = {}
    for level in sorted(levels, key=lambda level: level[:2]):
        for first in range(0, len(levels[level]), size):
            together = levels[level][first:first + size]
            renamed |= _names(together, renamed)
            pack = tuple(renamed[piece.key] for piece in together)
            for key, piece in zip(pack, together, strict=True):
                found[key], packs[key] = _renamed(piece, renamed), pack
    return found, packs, renamed


def _names(together: Sequence[Piece], renamed: Mapping[str, str]) -> dict[str, str]:
    """The keys of pieces that run together; one by itself, whose inputs have their own names, keeps its name."""
    inputs = [[renamed[key] for key in piece.needs] for piece in together]
    if len(together) == 1 and inputs[0] == list(together[0].needs):
        return {together[0].key: together[0].key}
    names = [[piece.key, *read] for piece, read in zip(together, inputs, strict=True)]
    return {piece.key: digest(["products by cell", names, place]) for place, piece in enumerate(together)}


def _renamed(piece: Piece, renamed: Mapping[str, str]) -> Piece:
    inputs = {node: renamed[key] for node, key in piece.inputs.items()}
    return replace(piece, key=renamed[piece.key], inputs=inputs, before=None if piece.before is None else renamed[piece.before])
