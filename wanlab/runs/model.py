"""The pipeline of a study: a word, or a mapping that says where the weights of a Wan model lie and how they are held."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from .part import Part

# Not which weights, but from where and how they come: which they are stands in the content keys.
WHERE = ("path", "parts", "offload", "verify")


class Model(Part):
    """The pipeline of a study: its name alone, or with where its weights lie and how they are held.

    All but the name are settings of Wan models (`wanlab.pipelines.wan_load.load_wan`, `wanlab.load`).
    """

    name: str | None = Field(None, description="a preset's name or a folder with pipeline.json; without: what lies at path")
    path: Path | None = Field(None, description="the folder of the weights, in either layout, or a repository in the hub's cache")
    parts: dict[str, Path] = Field({}, description="single parts from elsewhere: {dit: mine.safetensors}")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of transformer and text encoder; without: bfloat16, on a CPU float32"
    )
    offload: Literal[True, False, "auto"] = Field(
        "auto", description="stages wait in main memory until they run; auto: where the device lacks room for all"
    )
    verify: bool | dict[str, str] = Field(False, description="true: files have the sha256 that the hub told; or file: sha256")
    size: int | Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="height and width of the video, multiples of 16"
    )
    frames: int | None = Field(None, ge=1, le=10_001, description="4n + 1")
    scheduler: Literal["unipc", "euler"] | None = None
    shift: float | None = Field(None, gt=0, description="of the noise levels")

    def __str__(self) -> str:
        return str(self.name or self.path)

    @model_validator(mode="after")
    def _one(self) -> Model:
        if self.name is None and self.path is None:
            raise ValueError("a pipeline needs a name, or the path of its weights")
        return self

    @model_serializer(mode="wrap")
    def _told(self, plainly: Any) -> Any:
        """What differs from the defaults; a name alone is a word."""
        told = {key: value for key, value in plainly(self).items() if getattr(self, key) != type(self).model_fields[key].default}
        return self.name if set(told) == {"name"} else told


class OrWord:
    """In the schema: a mapping, or a word alone."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


def _named(value: Any) -> Any:
    if not isinstance(value, (str, Mapping, Model)):
        raise ValueError("expected the name of a pipeline, or a mapping with its name and path")
    return {"name": value} if isinstance(value, str) else value


Named = BeforeValidator(_named)


def told(model: Any) -> Any:
    """The part of a model, as a resolved study holds it, that can change a result and that no weights tell: a word or a mapping."""
    if not isinstance(model, Mapping):
        return model
    rest = {key: value for key, value in model.items() if key not in WHERE}
    return rest.get("name", "") if set(rest) <= {"name"} else rest
