"""Weights of the networks that judge: those that ship with the package, and those that others published."""

from .digest import sha8, sha256
from .published import PUBLISHED, Published, WeightsError, is_published, locate, published, signature
from .shipped import FOLDER, entry, finished, load_into, provenance, read, save, short_hash
from .tensors import fill, from_folder, tensors

__all__ = [
    "FOLDER",
    "PUBLISHED",
    "Published",
    "WeightsError",
    "entry",
    "fill",
    "from_folder",
    "finished",
    "is_published",
    "load_into",
    "locate",
    "provenance",
    "published",
    "read",
    "save",
    "sha8",
    "sha256",
    "short_hash",
    "signature",
    "tensors",
]
