"""The cascade: T5, DiT image encoder, cross-attention fusion, spatio-temporal UNet with frame alignment, x2 super-resolution
with residual links, detail enhancer with GAN head. It samples a small video with its layered motion, then enlarges it, guided
by the first frame at full size moved by that motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Bypass, Grid, Sites, Zero, clock
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import matches
from wanlab.diffusion.sampler import COND, Sampler, draw_noise
from wanlab.diffusion.segment import State
from wanlab.nn.layers import MOTION, Window
from wanlab.pipelines.base import Outputs, Pipeline, Progress
from wanlab.pipelines.component import removing
from wanlab.pipelines.denoise import motion_std, predict
from wanlab.pipelines.guide import Guide
from wanlab.pipelines.node import Node, with_hashes
from wanlab.pipelines.request import Request
from wanlab.pipelines.tiles import Tiling, TilingError, tiled
from wanlab.stages.align import Aligned
from wanlab.stages.image import Image
from wanlab.stages.text import Text

STAGES = ("text", "image", "fusion", "generator", "align", "upsample", "detail", "discriminator")


class Cascade(Pipeline):
    """`stages` maps each of STAGES to its module; `config` is the preset's: name, size, frames, slots, sampler, variants, and
    how super-resolution is tiled, if it is. Raises ValueError where a stage is missing."""

    text_sites = ("{text.**,fusion.{attn.{k,v,pattern,received,bias},norm_text.scale,context},"
                  "generator.**.cross.attn.{k,v,pattern,received,bias}}")

    def __init__(self, stages: Mapping[str, nn.Module], config: dict[str, Any], folder: Any = None) -> None:
        super().__init__()
        missing = [name for name in STAGES if name not in stages]
        if missing:
            raise ValueError(f"a cascade needs the stages {', '.join(STAGES)}; missing: {', '.join(missing)}")
        self.config, self.folder = config, folder
        for name in STAGES:
            self.add_module(name, stages[name])
        self.tiling = Tiling(**config["tiling"]) if config.get("tiling") else None
        self.sampler = Sampler({"video": "b f c h w", "motion": "b f m d"})
        self.components = {
            "text": removing(Bypass("text.{out,mask}")),
            "image": removing(Bypass("image.{tokens,pooled,frame,reference,present}")),
            "fusion": removing(Bypass("fusion.out")),
            "temporal": removing(Bypass("generator.**.temporal.out")),
            "alignment": removing(Bypass("align.{out,valid,scope}")),
            "residual": removing(Zero("upsample.*.residual.skip")),
            "detail": removing(Bypass("detail.out")),
            "gan_head": removing(Zero("detail.gan")),
            "guidance": removing(Bypass("sampler.*.guided")),
        }
        self.eval()

    @property
    def nodes(self) -> list[Node]:
        """text, image, denoise, upsample.0 …, detail."""
        if "_nodes" not in self.__dict__:
            levels = range(len(self.upsample))
            graph = [
                Node("text", (), ("text",), ("prompts", "negative", "guidance")),
                Node("image", (), ("image",), ("images", "prompts")),
                Node("denoise", ("text", "image"), ("fusion", "generator", "align", "sampler"), ("seeds", "steps", "guidance")),
                *(Node(f"upsample.{i}", (f"upsample.{i - 1}" if i else "denoise", *(("denoise",) if i else ()), "image"),
                       (f"upsample.{i}",)) for i in levels),
                Node("detail", (f"upsample.{len(levels) - 1}", "denoise", "image"), ("detail",)),
            ]
            self.__dict__["_nodes"] = with_hashes(self, graph)
        return self.__dict__["_nodes"]

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name == "text":
            return self._text(request)
        if name == "image":
            return self._image(request)
        if name == "denoise":
            return self._denoise(inputs, request, progress)
        return {"video": self._enlarge(name, inputs)}

    def _text(self, request: Request) -> Outputs:
        out: Outputs = {}
        for branch in self.branches(request):
            prompts = request.prompts if branch == COND else request.negative
            ids = self.text.ids(prompts) if prompts else torch.zeros(len(request), self.text.length, dtype=torch.long)
            with clock.at(branch=branch):
                said = self.text(ids.to(self.device))
            out |= {f"{branch}.tokens": said.tokens, f"{branch}.mask": said.mask}
        return out

    def _image(self, request: Request) -> Outputs:
        side = self.config["size"]
        given = request.images is not None
        images = request.images if given else torch.zeros(len(request), 3, side, side)
        present = torch.full((len(request),), float(given), device=self.device)
        return self.image(images.to(self.device), present)._asdict()  # type: ignore[union-attr]

    def _denoise(self, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        image = Image(**inputs["image"])
        stages = {name: self.get_submodule(name) for name in ("fusion", "generator", "align")}
        last: dict[str, Aligned] = {}

        def clean(state: State, sigma: Tensor, branch: str) -> State:
            text = Text(inputs["text"][f"{branch}.tokens"], inputs["text"][f"{branch}.mask"])
            out = predict(stages, state["video"], state["motion"], text, image, sigma)
            last[branch] = out.aligned
            return {"video": out.video, "motion": out.motion}

        f, h = self.config["frames"], image.frame.shape[-1]
        noise = draw_noise(request.seeds, {"video": (f, 3, h, h), "motion": (f, self.config["slots"], len(MOTION))})
        state = self.sampler({k: v.to(self.device) for k, v in noise.items()}, clean, request.steps, request.guidance, progress)
        motion = state["motion"] * motion_std(state["motion"])
        motion = torch.cat([torch.zeros_like(motion[:, :1, :, :4]), motion[:, 1:, :, :4]], 1)
        depth = (state["motion"] * motion_std(state["motion"]))[..., 4:]
        aligned = last[COND]
        return {"video": state["video"], "motion": torch.cat([motion, depth], -1), "masks": aligned.masks, "scope": aligned.scope}

    def _enlarge(self, name: str, inputs: Mapping[str, Outputs]) -> Tensor:
        """One level of super-resolution, or the detail stage: whole, or in tiles where the pipeline has them."""
        level, detail = self._level(name), name == "detail"
        stage: Any = self.detail if detail else self.upsample[level]
        scale = 1 if detail else 2
        low = next(inputs[key]["video"] for key in self.node(name).inputs)
        guide = Guide(inputs["denoise"], inputs["image"], scale * low.shape[-1])
        if self._in_tiles(name):
            self._demand_unwatched(name)

            def part(video: Tensor, small: Window, large: Window) -> Tensor:
                origin = {"origin": (large.rows.start, large.columns.start)} if detail else {}
                return stage(video, *guide.part(large), **origin)

            video = tiled(part, low, scale, stage.reach, self.tiling)  # type: ignore[arg-type]
        else:
            video = stage(low, *guide.part())
        return ((video + 1) / 2).clamp(0, 1).float() if detail else video

    def _level(self, name: str) -> int:
        return len(self.upsample) - 1 if name == "detail" else int(name.split(".")[1])  # type: ignore[arg-type]

    def _in_tiles(self, name: str) -> bool:
        """Whether a node of super-resolution runs in tiles."""
        if self.tiling is None or self.device.type == "meta" or not name.startswith(("upsample", "detail")):
            return False
        side = self.generator.config.size * 2 ** (self._level(name) + 1)  # type: ignore[union-attr, operator]
        return not self.tiling.covers(self.config["frames"], side, side)

    def _demand_unwatched(self, name: str) -> None:
        """Raise TilingError where an edit or a capture is to act within a stage that runs in tiles."""
        for path, module in self.get_submodule(name).named_modules():
            watched = [site for site in getattr(module, "SITES", ()) if module.listening(site)]  # type: ignore[operator]
            if watched:
                full, side = ".".join(part for part in (name, path, watched[0]) if part), self.config["tiling"]["side"]
                raise TilingError(f"{full} lies in a stage that runs in tiles of {side} pixels, where no tensor is whole: run it "
                                  "untiled with pipe.tiled(None), which needs memory in proportion to the video")

    def _demand_precision(self) -> None:
        """Raise where weights are not in float32: fewer bits are less than positions of layers and noise levels need."""
        for name in STAGES:
            value = next(self.get_submodule(name).parameters(), None)
            if value is not None and value.dtype != torch.float32:
                raise ValueError(f"the stage {name} is in {value.dtype}: a cascade runs in float32 (pipe.float()); for matrix "
                                 "products in half precision, run it within torch.autocast")

    def _admit(self) -> None:
        """As every pipeline's; raise, too, for what is asked of stages that run in tiles."""
        super()._admit()
        for node in self.nodes:
            if self._in_tiles(node.name):
                self._demand_unwatched(node.name)

    def tiled(self, tiling: Tiling | None) -> Cascade:
        """A pipeline that shares every weight and runs super-resolution in other tiles; None: in one piece."""
        stages = {name: self.get_submodule(name) for name in STAGES}
        told = {key: value for key, value in self.config.items() if key != "tiling"}
        return Cascade(stages, told if tiling is None else told | {"tiling": asdict(tiling)}, self.folder)

    def _probed(self) -> Sites:
        """Sites from a twin without values: at sizes that ask for tiles, a run for the sake of shapes would take minutes."""
        if self.tiling is None or self.device.type == "meta":
            return super()._probed()
        return self._twin()._probed()

    def dry_run(self, *args: Any, **kwargs: Any) -> Request:
        """A run of one step, and of the discriminator too, which generating leaves out."""
        request = super().dry_run(*args, **kwargs)
        f, side = self.config["frames"], self.config["size"]
        video = torch.zeros(1, f, 3, side, side, device=self.device)
        sizes = enumerate(self.discriminator.config.taps)
        self.discriminator(video, [video.new_zeros(f, c, side >> level, side >> level) for level, c in sizes])
        return request

    def grid_of(self, site: str) -> Grid | None:
        """The patches of the first frame (image, fusion), or of every frame at each level of the UNet; keys of cross-attention
        are words first, those of temporal attention are frames."""
        config: Any = self.generator.config
        side, levels, frames = config.size // config.patch, len(config.widths), self.config["frames"]
        grid = self.image.config.grid
        if matches("{fusion.context,generator.**.cross.attn.{k,v,received}}", site):
            return Grid(1, grid, grid, start=self.text.length, of="image")
        if matches("generator.**.temporal.attn.{k,v,received}", site):
            return Grid(frames, 1, 1)
        if matches("fusion.attn.{k,v,received}", site):
            return None
        if matches("align.attn.**", site) and not matches("align.attn.{k,v,received}", site):
            return Grid(frames, side, side)
        if matches("{image.**,fusion.**}", site):
            return Grid(1, grid, grid, of="image")
        if matches("align.attn.**", site):
            return Grid(1, side, side, of="image")
        for level in range(levels):
            blocks = f"down.{level},up.{levels - 1 - level}" + (",mid" if level == levels - 1 else "")
            if matches(f"generator.{{{blocks}}}.**", site):
                return Grid(1, side >> level, side >> level)
        return None

    def words_of(self, request: Request, row: int) -> list[str]:
        """The words of a row's prompt, as far as the text stage takes them in."""
        return self.text.words(request.prompts[row])

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        """Positions of `word` among the text tokens of a row."""
        return self.text.tokens_of(request.prompts[row], word)

    def cut_of(self, prompt: str) -> str:
        """What of a prompt the text stage does not take in, in words; empty where it takes in all."""
        return str(self.text.cut_of(prompt))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the text stage's vocabulary does not hold."""
        return self.text.unknown(prompt)

    def swap(self, stage: str, variant: str, init: str | None = None) -> Cascade:
        """A pipeline with another variant of `stage` that shares every other weight; `init="random"` allows an untrained one.

        Where pipeline.json says of the variant that it was trained `with` certain variants of other stages, they come along.
        Raises LookupError for a stage or variant that there is not.
        """
        from wanlab.pipelines.load import build_stage

        if stage not in STAGES:
            raise LookupError(f"{self.config['name']} has no stage {stage!r}{suggestion(stage, STAGES)}")
        wanted = {**self.companions(stage, variant), stage: variant}
        made = {name: build_stage(self.config, self.folder, name, kind, init).to(self.device) for name, kind in wanted.items()}
        stages = {name: self.get_submodule(name) for name in STAGES} | made
        return Cascade(stages, {**self.config, "variants": {**self.config["variants"], **wanted}}, self.folder)

    def companions(self, stage: str, variant: str) -> dict[str, str]:
        """stage -> variant: what a variant was trained with and does not come without, as pipeline.json says."""
        known = self.config["stages"].get(stage, {}).get("variants", {})
        return dict(known.get(variant, {}).get("with", {}))

    @torch.no_grad()
    def judge(self, video: Tensor, network: nn.Module | None = None) -> Tensor:
        """How real the discriminator takes a video (b f c h w in [0, 1]) to be: logits b f h w, one for each patch of 4x4 pixels.

        network: whose activations it looks at, a `nn.vgg.Vgg`; without, the shipped one. The discriminator's sites act:
        `with trace(pipe, capture="discriminator.realness"): pipe.judge(out.video)`.
        """
        from wanlab.nn.vgg import content_network

        frames = rearrange(video.to(self.device), "b f c h w -> (b f) c h w")
        taps = (network or content_network()).to(self.device)(frames)
        return rearrange(self.discriminator(2 * video.to(self.device) - 1, taps), "b f 1 h w -> b f h w")
