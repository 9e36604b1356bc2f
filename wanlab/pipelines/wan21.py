"""Wan2.1 and Wan2.2: umT5, CLIP, causal VAE and the diffusion transformer, as a graph of nodes like the cascade's.

    text ─┐
    image ─┼─ denoise ── decode ── upsample.0 … detail
    first ─┘

image and first exist where the transformer reads them (a last frame too, where it takes one), upsample and detail where a cascade's
were attached. Of Wan2.2, A14B has two transformers (`dit.high`, `dit.low`), TI2V-5B a time for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Bypass, CutFrames, Edit, Grid, ShuffleFrames, clock
from wanlab.core.pattern import matches
from wanlab.diffusion.flow import flow_scheduler
from wanlab.diffusion.sampler import COND, Sampler, branches, draw_noise
from wanlab.diffusion.segment import State
from wanlab.pipelines.base import Outputs, Pipeline, Progress
from wanlab.pipelines.component import removing
from wanlab.pipelines.enlarging import ENLARGING, enlarged, enlarging_components, enlarging_nodes
from wanlab.pipelines.inputs import sides
from wanlab.pipelines.node import Node, with_hashes
from wanlab.pipelines.request import Request
from wanlab.stages.experts import Experts
from wanlab.stages.vae import refuse_parts

STRIDES = (4, 8)        # of Wan2.1's autoencoder: frames of the video to one of the latent, after the first; pixels to one place


class GeometryError(ValueError):
    """A size or number of frames that the autoencoder and the transformer cannot represent."""


class Wan(Pipeline):
    """stages: text, dit, vae and, where the transformer has an image branch, clip. config: name, size, frames, sampler, …"""

    text_sites = "dit.**.{text,blocks.*.cross_attn.{k,v,pattern}}"

    def __init__(self, stages: Mapping[str, nn.Module], config: dict[str, Any], preset: Any = None) -> None:
        super().__init__()
        self.config, self.preset = config, preset
        check_geometry(config["size"], config["frames"], stages["dit"].config.patch, stages["vae"].strides)
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.sampler = Sampler({"video": "b f c h w"}, flow_scheduler(**config["scheduler"]), prediction="velocity")
        self.components = _components(self)
        self.eval()

    @property
    def takes_image(self) -> bool:
        """Whether the transformer reads a first frame beside the noise, or within it."""
        return self._beside or self._within_noise

    @property
    def takes_last(self) -> bool:
        """Whether it reads a last frame too: without image tokens, or with places for those of two images."""
        return self._beside and (self.dit.img_emb is None or self.dit.config.image_places is not None)

    @property
    def _beside(self) -> bool:
        return bool(self.dit.config.inputs > self.dit.config.outputs)

    @property
    def _within_noise(self) -> bool:
        return bool(self.config.get("time_per_token"))

    @property
    def nodes(self) -> list[Node]:
        """text, image and first where they are read, denoise, decode."""
        if "_nodes" not in self.__dict__:
            images = ("images", "last") if self.takes_last else ("images",)
            scales = ("guidance", "guidance_2") if isinstance(self.dit, Experts) else ("guidance",)
            graph = [Node("text", (), ("text",), ("prompts", "negative", *scales))]
            if self.dit.img_emb is not None:
                graph.append(Node("image", (), ("clip",), images))
            if self.takes_image:
                graph.append(Node("first", (), ("vae.encoder",), images))
            graph += [
                Node("denoise", tuple(node.name for node in graph), ("dit", "sampler"), ("seeds", "steps", *scales)),
                Node("decode", ("denoise",), ("vae.decoder",)),
                *enlarging_nodes(self, "decode"),
            ]
            self.__dict__["_nodes"] = with_hashes(self, graph)
        return self.__dict__["_nodes"]

    def levels(self, request: Request) -> list[float]:
        """The noise levels of the denoising loop, which can pause between any two steps."""
        return self.sampler.sigmas(request.steps)

    def _demand_precision(self) -> None:
        """Raise where stages that compute in float32 are in another precision, as after `pipe.to(torch.bfloat16)`."""
        for name in ("clip", "vae", *ENLARGING):
            value = next(self.get_submodule(name).parameters(), None) if hasattr(self, name) else None
            if value is not None and value.dtype != torch.float32:
                raise ValueError(f"the stage {name} is in {value.dtype}, and it computes in float32: give the precision on "
                                 "loading, wanlab.load(name, dtype=torch.bfloat16), which is for text encoder and transformer")

    def steps_of(self, request: Request) -> Callable[[str], range | None]:
        """Of a site of one of two experts, the steps in which that one is at work."""
        always = super().steps_of(request)
        if not isinstance(self.dit, Experts):
            return always
        steps = self.dit.steps(self.sampler.times(request.steps))
        return lambda site: next((found for name, found in steps.items() if site.startswith(f"dit.{name}.")), always(site))

    @property
    def _dry(self) -> tuple[int, float]:
        """Both experts are at work; `uncond` passes the sites that `cond` does, so one branch is enough."""
        if not isinstance(self.dit, Experts):
            return 1, 1.0
        return next(steps for steps in range(2, 100) if self.dit.at(self.sampler.times(steps)[-1]) == "low"), 1.0

    def branches(self, request: Request) -> tuple[str, ...]:
        """Both, where the guidance of either expert is not 1."""
        return branches(*{request.guidance, self._second(request)})

    @property
    def constants(self) -> dict[str, Any]:
        """As every pipeline's, and how the autoencoder is cut into parts."""
        return super().constants | ({"vae": self.vae.parts} if self.vae.parts else {})

    def dry_run(self, *args: Any, **kwargs: Any) -> Request:
        """As every pipeline's, with whole pictures in the autoencoder."""
        with self.vae.whole():
            return super().dry_run(*args, **kwargs)

    def _runs(self, site: str) -> bool:
        """As every pipeline's. Raises PartsError for a site within the autoencoder, while that works in parts."""
        if matches("vae.*.net.**", site):
            refuse_parts(self.vae.encoder.net, sides(self.config["size"]), site)
        return super()._runs(site)

    def resident(self, node: str) -> list[list[str]]:
        """As every pipeline's: the whole autoencoder, and of two experts one after the other."""
        stages = ["vae" if stage.startswith("vae.") else stage for stage in self.node(node).stages if stage != "sampler"]
        return [[f"dit.{name}"] for name in ("high", "low")] if stages == ["dit"] and isinstance(self.dit, Experts) else [stages]

    def _second(self, request: Request) -> float:
        return request.guidance if request.guidance_2 is None else request.guidance_2

    def request(self, image: Any = None, prompt: Any = "", seed: Any = 0, **settings: Any) -> Request:
        """As every pipeline's; ValueError for an image given to a text-to-video checkpoint, and for none given to an
        image-to-video one."""
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
        made = Wan(stages, {**self.config, "name": name}, self.preset)
        if self.residence is None:
            return made
        self.residence.bring(())
        return made.staged(self.residence.device)

    # -- nodes ------------------------------------------------------------------------------------------------------------
    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name == "text":
            return self._text(request)
        if name == "image":
            return {"tokens": torch.cat([self.clip(images) for images in self._images(request)], 1)}
        if name == "first":
            return self._first(request)
        if name == "denoise":
            return self._denoise(inputs, request, progress)
        if name == "decode":
            return {"video": self.vae.decoder(inputs["denoise"]["latent"])}
        return {"video": enlarged(self, name, next(iter(inputs.values()))["video"])}

    def _images(self, request: Request) -> list[Tensor]:
        """The first frames (b c h w in [0, 1]) and, where they are given, the last ones."""
        if request.images is None:
            raise ValueError(f"{self.config['name']} makes a video from an image, and there is none; "
                             "ablate the component 'image' to run without")
        if request.last is None and self.dit.config.image_places is not None:
            raise ValueError(f"{self.config['name']} makes a video between two images, and there is no last one: give last_image")
        return [request.images] if request.last is None else [request.images, request.last]

    def _first(self, request: Request) -> Outputs:
        """What the transformer is told of the given frames: beside the noise, or (Wan2.2's small model) within it."""
        if self._within_noise:
            none = torch.zeros(len(request), int(self.dit.config.outputs), *self._latent_sides, device=self.device)
            return self.vae.encoder.within(None if request.images is None else self._signed(request.images), none,
                                           self._latent_frames)
        return {"condition": self.vae.encoder(self._signed(self._images(request)[0]), self.config["frames"],
                                              *(self._signed(last) for last in self._images(request)[1:]))}

    def _signed(self, images: Tensor) -> Tensor:
        return 2 * images.to(self.device) - 1

    def _text(self, request: Request) -> Outputs:
        out: Outputs = {}
        for branch in self.branches(request):
            prompts = request.prompts if branch == COND else request.negative or [self.config["negative"]] * len(request)
            with clock.at(branch=branch):
                out[f"{branch}.tokens"] = self.text(prompts)
        return out

    def _denoise(self, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        first = inputs.get("first", {})
        image = inputs["image"]["tokens"] if "image" in inputs else None
        at_work = self._at_work(request.steps)

        def velocity(state: State, time: Tensor, branch: str) -> State:
            latent, name = self._seen(state["video"], first), at_work[clock.now().step or 0]
            if "mask" in first:
                time = self._times(time, first["mask"])
            if self.residence is not None:
                self.residence.bring([name])
            dit: Any = self.get_submodule(name)
            return {"video": dit(latent, time, inputs["text"][f"{branch}.tokens"], image).float()}

        noise = self.noise(request.seeds)
        state = self.sampler({"video": noise.to(self.device)}, velocity, request.steps, self._scales(request), progress)
        return {"latent": self._seen(state["video"], first) if "mask" in first else state["video"]}

    def _at_work(self, steps: int) -> list[str]:
        """The name of each step's transformer."""
        if not isinstance(self.dit, Experts):
            return ["dit"] * steps
        return [f"dit.{self.dit.at(time)}" for time in self.sampler.times(steps)]

    def _scales(self, request: Request) -> list[float]:
        """The guidance of each step."""
        if not isinstance(self.dit, Experts):
            return [request.guidance] * request.steps
        each = {"high": request.guidance, "low": self._second(request)}
        return [each[self.dit.at(time)] for time in self.sampler.times(request.steps)]

    def _seen(self, latent: Tensor, first: Mapping[str, Tensor]) -> Tensor:
        """What the transformer sees: the latent with the condition beside it, or with the first frame in its place."""
        if "mask" in first:
            return (1 - first["mask"]) * latent + first["mask"] * first["latent"]
        return torch.cat([latent, first["condition"]], 2) if "condition" in first else latent

    def _times(self, time: Tensor, mask: Tensor) -> Tensor:
        """The time (b) of each token (b n): 0 where a frame is given."""
        _, high, wide = self.dit.config.patch
        return time[:, None] * (1 - mask[:, :, 0, ::high, ::wide]).flatten(1)

    def noise(self, seeds: list[int]) -> Tensor:
        """Unit noise b f c h w; drawn as c f h w, so that a seed means what it means to diffusers."""
        c, (h, w) = int(self.dit.config.outputs), self._latent_sides
        drawn = draw_noise(seeds, {"video": (c, self._latent_frames, h, w)})["video"]
        return drawn.transpose(1, 2).contiguous()

    @property
    def _latent_frames(self) -> int:
        return 1 + (int(self.config["frames"]) - 1) // int(self.vae.strides[0])

    @property
    def _latent_sides(self) -> tuple[int, int]:
        (h, w), side = sides(self.config["size"]), int(self.vae.strides[1])
        return h // side, w // side

    # -- words and places -------------------------------------------------------------------------------------------------
    def grid_of(self, site: str) -> Grid | None:
        """The keys of self-attention: every token of the video, frame by frame. Those of the image branch: behind the class token
        the patches of the first frame's picture (a last frame's, where one is read, are the rest)."""
        if matches("dit.**.blocks.*.cross_attn.img.{k,v}", site):
            return Grid(1, self.clip.side, self.clip.side, start=1, of="image")
        if not matches("dit.**.blocks.*.self_attn.*", site):
            return None
        return Grid(self._latent_frames, *(side // self.dit.config.patch[1] for side in self._latent_sides))

    def words_of(self, request: Request, row: int) -> list[str]:
        """The words of a row's prompt."""
        return self.text.words(request.prompts[row])

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        """Positions of a word's pieces among the text tokens of a row."""
        return self.text.tokens_of(request.prompts[row], word)

    def cut_of(self, prompt: str) -> str:
        """What of a prompt the text stage does not take in, in words; empty where it takes in all."""
        return str(self.text.cut_of(prompt))

    def unknown_words(self, prompt: str) -> list[str]:
        """None: the tokenizer splits whatever it does not know into pieces that it does."""
        return []

    def swap(self, stage: str, variant: str, init: str | None = None) -> Pipeline:
        """Wan has one variant of each stage: LookupError says so."""
        raise LookupError(f"{self.config['name']} has no variants: stage {stage!r} is as it was published")


def _components(pipe: Wan) -> dict[str, Callable[[], list[Any]]]:
    """What may be removed, under the names that it has in every pipeline; of two experts, in both."""
    dit = "dit.*" if isinstance(pipe.dit, Experts) else "dit"
    components: dict[str, Callable[[], list[Any]]] = {
        "text": removing(Bypass("text.out")),
        "fusion": removing(Bypass(f"{dit}.blocks.*.cross_out")),
        "temporal": removing(CutFrames(f"{dit}.blocks.*.self_attn.frames")),
        "alignment": removing(ShuffleFrames(f"{dit}.rotary.time")),
        "residual": removing(Bypass(f"{dit}.blocks.*.{{attn_out,cross_out,mlp_out}}")),
        "guidance": removing(Bypass("sampler.video.guided")),
    }
    clip = [Bypass("dit.blocks.*.cross_attn.img.z")] if pipe.dit.img_emb is not None else []
    latent = [Bypass("vae.encoder.{mask,latent}")] if pipe.takes_image else []
    components |= enlarging_components(pipe)
    parts = {"image": [*clip, *latent], "image.clip": clip, "image.latent": latent}
    return components | {name: removing(*edits) for name, edits in parts.items() if edits}


def check_geometry(size: int | tuple[int, int], frames: int, patch: tuple[int, int, int],
                   strides: tuple[int, int] = STRIDES) -> None:
    """Raise GeometryError, with the nearest that fits, for what the autoencoder and the patches do not divide."""
    step = strides[1] * patch[1]
    if any(side < step or side % step for side in sides(size)):
        near = " x ".join(str(max(step, round(side / step) * step)) for side in sides(size))
        got = " x ".join(map(str, sides(size)))
        raise GeometryError(f"height and width must be multiples of {step}, got {got}; nearest: {near}")
    if frames < 1 or frames % strides[0] != 1:
        near = max(1, 1 + round((frames - 1) / strides[0]) * strides[0])
        raise GeometryError(f"Wan makes 4n + 1 frames (the first alone, then four to a latent), got {frames}; nearest: {near}")
