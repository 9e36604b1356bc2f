"""Wan2.1 and Wan2.2: umT5, CLIP, causal VAE and the diffusion transformer, as a graph of nodes like the cascade's.

    text ─┐
    image ─┼─ denoise ── decode ── upsample.0 … detail
    first ─┘

image and first exist where the transformer reads them, upsample and detail where a cascade's were attached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Bypass, CutFrames, Edit, Grid, ShuffleFrames, clock
from wanlab.core.pattern import matches
from wanlab.diffusion.flow import flow_scheduler
from wanlab.diffusion.sampler import COND, Sampler, State, draw_noise
from wanlab.pipelines.base import Node, Outputs, Pipeline, Progress, Request, with_hashes
from wanlab.pipelines.enlarging import ENLARGING, enlarged, enlarging_components, enlarging_nodes
from wanlab.pipelines.inputs import sides

STRIDES = (4, 8)        # frames of the video to one of the latent, after the first; pixels to one place of it


class GeometryError(ValueError):
    """A size or number of frames that the autoencoder and the transformer cannot represent."""


class Wan(Pipeline):
    """stages: text, dit, vae and, where the transformer has an image branch, clip. config: name, size, frames, sampler, …"""

    text_sites = "dit.{text,blocks.*.cross_attn.{k,v,pattern}}"

    def __init__(self, stages: Mapping[str, nn.Module], config: dict[str, Any], preset: Any = None) -> None:
        super().__init__()
        self.config, self.preset = config, preset
        check_geometry(config["size"], config["frames"], stages["dit"].config.patch)
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.sampler = Sampler({"video": "b f c h w"}, flow_scheduler(**config["scheduler"]), prediction="velocity")
        self.components = _components(self)
        self.eval()

    @property
    def takes_image(self) -> bool:
        """Whether the transformer reads a first frame beside the noise."""
        return bool(self.dit.config.inputs > self.dit.config.outputs)

    @property
    def nodes(self) -> list[Node]:
        """text, image and first where they are read, denoise, decode."""
        if "_nodes" not in self.__dict__:
            graph = [Node("text", (), ("text",), ("prompts", "negative", "guidance"))]
            if self.dit.img_emb is not None:
                graph.append(Node("image", (), ("clip",), ("images",)))
            if self.takes_image:
                graph.append(Node("first", (), ("vae.encoder",), ("images",)))
            graph += [
                Node("denoise", tuple(node.name for node in graph), ("dit", "sampler"), ("seeds", "steps", "guidance")),
                Node("decode", ("denoise",), ("vae.decoder",)),
                *enlarging_nodes(self, "decode"),
            ]
            self.__dict__["_nodes"] = with_hashes(self, graph)
        return self.__dict__["_nodes"]

    def levels(self, request: Request) -> list[float]:
        """The noise levels of the denoising loop, which can pause between any two steps."""
        return self.sampler.sigmas(request.steps)

    def request(self, image: Any = None, prompt: Any = "", seed: Any = 0, **settings: Any) -> Request:
        """As every pipeline's; an image for a text-to-video checkpoint raises, and so does none for an image-to-video one."""
        if image is not None and not self.takes_image:
            raise ValueError(f"{self.config['name']} is a text-to-video model and takes no image; "
                             "Wan2.1's image-to-video model is wan2.1-i2v-14b (there is none of 1.3B)")
        return super().request(image, prompt, seed, **settings)

    def ablate(self, component: str) -> list[Edit]:
        """As every pipeline's; of what only a cascade has, LookupError says where it comes from."""
        if component in ("detail", "gan_head") and component not in self.components:
            raise LookupError(f"the published Wan has no {component}: it has no super-resolution cascade and no GAN; "
                              "pipe.attach(wanlab.load('tiny')) puts those stages of a cascade after its decoder")
        return super().ablate(component)

    def attach(self, cascade: Pipeline) -> Wan:
        """A pipeline that shares every weight, with the super-resolution and detail stages of a cascade after the decoder.

        They run without a reference: what the cascade's own generator says of motion is not there. The name of the result tells
        whose stages they are, and what those were trained on.
        """
        stages = {name: stage for name, stage in self.named_children() if name != "sampler"}
        stages |= {name: cascade.get_submodule(name) for name in ENLARGING}
        taught = cascade.config.get("trained_on", "procedural videos")
        name = f"{self.config['name']}+{cascade.config['name']} ({'+'.join(ENLARGING)} trained on {taught})"
        return Wan(stages, {**self.config, "name": name}, self.preset)

    # -- nodes ------------------------------------------------------------------------------------------------------------
    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name == "text":
            return self._text(request)
        if name == "image":
            return {"tokens": self.clip(self._images(request))}
        if name == "first":
            first = 2 * self._images(request).to(self.device) - 1
            return {"condition": self.vae.encoder(first, self.config["frames"])}
        if name == "denoise":
            return self._denoise(inputs, request, progress)
        if name == "decode":
            return {"video": self.vae.decoder(inputs["denoise"]["latent"])}
        return {"video": enlarged(self, name, next(iter(inputs.values()))["video"])}

    def _images(self, request: Request) -> Tensor:
        if request.images is None:
            raise ValueError(f"{self.config['name']} makes a video from an image, and there is none; "
                             "ablate the component 'image' to run without")
        return request.images

    def _text(self, request: Request) -> Outputs:
        out: Outputs = {}
        for branch in self.branches(request):
            prompts = request.prompts if branch == COND else request.negative or [self.config["negative"]] * len(request)
            with clock.at(branch=branch):
                out[f"{branch}.tokens"] = self.text(prompts)
        return out

    def _denoise(self, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        beside = inputs["first"]["condition"] if "first" in inputs else None
        image = inputs["image"]["tokens"] if "image" in inputs else None

        def velocity(state: State, time: Tensor, branch: str) -> State:
            latent = state["video"] if beside is None else torch.cat([state["video"], beside], 2)
            return {"video": self.dit(latent, time, inputs["text"][f"{branch}.tokens"], image).float()}

        noise = self.noise(request.seeds)
        state = self.sampler({"video": noise.to(self.device)}, velocity, request.steps, request.guidance, progress)
        return {"latent": state["video"]}

    def noise(self, seeds: list[int]) -> Tensor:
        """Unit noise b f c h w; drawn as c f h w, so that a seed means what it means to diffusers."""
        c, (h, w) = int(self.dit.config.outputs), sides(self.config["size"])  # type: ignore[arg-type]
        f: int = 1 + (self.config["frames"] - 1) // STRIDES[0]
        drawn = draw_noise(seeds, {"video": (c, f, h // STRIDES[1], w // STRIDES[1])})["video"]
        return drawn.transpose(1, 2).contiguous()

    # -- words and places -------------------------------------------------------------------------------------------------
    def grid_of(self, site: str) -> Grid | None:
        """The keys of self-attention: every token of the video, frame by frame."""
        if not matches("dit.blocks.*.self_attn.*", site):
            return None
        h, w = sides(self.config["size"])
        frames = 1 + (self.config["frames"] - 1) // STRIDES[0]
        return Grid(frames, *(side // STRIDES[1] // self.dit.config.patch[1] for side in (h, w)))

    def words_of(self, request: Request, row: int) -> list[str]:
        """The words of a row's prompt."""
        return self.text.words(request.prompts[row])

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        """Positions of a word's pieces among the text tokens of a row."""
        return self.text.tokens_of(request.prompts[row], word)

    def unknown_words(self, prompt: str) -> list[str]:
        """None: the tokenizer splits whatever it does not know into pieces that it does."""
        return []

    def swap(self, stage: str, variant: str, init: str | None = None) -> Pipeline:
        """Wan has one variant of each stage: LookupError says so."""
        raise LookupError(f"{self.config['name']} has no variants: stage {stage!r} is as it was published")


def _components(pipe: Wan) -> dict[str, Callable[[], list[Any]]]:
    """What may be removed, under the names that it has in every pipeline."""
    components: dict[str, Callable[[], list[Any]]] = {
        "text": lambda: [Bypass("text.out")],
        "fusion": lambda: [Bypass("dit.blocks.*.cross_out")],
        "temporal": lambda: [CutFrames("dit.blocks.*.self_attn.frames")],
        "alignment": lambda: [ShuffleFrames("dit.rotary.time")],
        "residual": lambda: [Bypass("dit.blocks.*.{attn_out,cross_out,mlp_out}")],
        "guidance": lambda: [Bypass("sampler.video.guided")],
    }
    clip = [Bypass("dit.blocks.*.cross_attn.z_img")] if pipe.dit.img_emb is not None else []
    latent = [Bypass("vae.encoder.{mask,latent}")] if pipe.takes_image else []
    components |= enlarging_components(pipe)
    parts = {"image": [*clip, *latent], "image.clip": clip, "image.latent": latent}
    return components | {name: lambda edits=edits: list(edits) for name, edits in parts.items() if edits}


def check_geometry(size: int | tuple[int, int], frames: int, patch: tuple[int, int, int]) -> None:
    """Raise GeometryError, with the nearest that fits, for what the autoencoder and the patches do not divide."""
    step = STRIDES[1] * patch[1]
    if any(side < step or side % step for side in sides(size)):
        near = " x ".join(str(max(step, round(side / step) * step)) for side in sides(size))
        got = " x ".join(map(str, sides(size)))
        raise GeometryError(f"height and width must be multiples of {step}, got {got}; nearest: {near}")
    if frames < 1 or frames % STRIDES[0] != 1:
        near = max(1, 1 + round((frames - 1) / STRIDES[0]) * STRIDES[0])
        raise GeometryError(f"Wan makes 4n + 1 frames (the first alone, then four to a latent), got {frames}; nearest: {near}")
