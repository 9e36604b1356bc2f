"""What every pipeline is: named stages with sites, run as a graph of nodes.

A node is the smallest unit that is computed, cached or skipped. `run_node` runs one for a set of rows: the stage cache and every
study engine go through it. A plain `generate` runs them all within one trace, and gives the same bytes.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any, Self

import torch
from torch import Tensor, nn

from wanlab.core import GIB, Capture, Edit, Grid, Probe, Sites, clock, stretch, suggestion, trace
from wanlab.core.gradient import GradientError
from wanlab.core.lineage import Lineage, Lines
from wanlab.core.pattern import matches
from wanlab.core.quote import quoted
from wanlab.core.stretch import Stretch
from wanlab.diffusion.segment import Paused, Segment, segment
from wanlab.graph.configs import told
from wanlab.graph.keys import digest as content_key
from wanlab.pipelines.node import Node
from wanlab.pipelines.output import Output
from wanlab.pipelines.request import Request
from wanlab.pipelines.residence import Residence
from wanlab.pipelines.unread import warn_of_unread

Outputs = dict[str, Tensor]
Progress = Callable[[int, int], None]
FOUND_OUT = ("_nodes", "_known_sites", "_known_lineage")    # what a pipeline finds out about itself once


class Pipeline(nn.Module):
    """Stages as children, `nodes` as their graph, and the public face: sites, generate, ablate, swap."""

    config: dict[str, Any]
    components: Mapping[str, Callable[[], list[Edit]]] = {}
    residence: Residence | None = None      # where the stages are, if they come and go
    text_sites: str = "text.**"             # sites whose tokens (or keys) are the prompt's, which `words=` may select

    # -- what a pipeline defines ------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def nodes(self) -> list[Node]:
        """The graph, each node after its inputs."""

    @property
    def takes_image(self) -> bool:
        """Whether it can be given a first frame."""
        return True

    @property
    def takes_last(self) -> bool:
        """Whether it can be given a last frame beside the first."""
        return False

    @abstractmethod
    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        """Run one node on this device."""

    @abstractmethod
    def swap(self, stage: str, variant: str, init: str | None = None) -> Pipeline:
        """A pipeline with another variant of one stage that shares every other weight."""

    # -- running ----------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def run_node(self, name: str, inputs: Mapping[str, Outputs], request: Request, edits: Sequence[Edit] = (),
                 capture: Sequence[Capture | str] = (), progress: Progress | None = None, *,
                 before: Outputs | None = None, until: int | None = None) -> Outputs:
        """Run one node for the request's rows under `edits` (those that live in it) and return its tensors on the CPU, rows first.

        Of a node with denoising steps one may run a part, where `levels` says that its loop can pause: with `until` it ends
        before that step and gives its state, which as `before` is where another call goes on. Edits are those due in that part.
        Raises RuntimeError where the loop was to pause and did not.
        """
        here = None if before is None else {key: value.to(self.device) for key, value in before.items()}
        with segment(here, until) as part, self._announced(request, part), self._traced(name, edits, capture):
            try:
                self._admit()
                out = self._run_here(name, inputs, request, progress)
            except Paused as paused:
                return {key: value.cpu() for key, value in paused.state.items()}
        if until not in (None, request.steps):
            raise RuntimeError(f"{name} was to pause before step {until} and ran to its end: its loop is not the sampler's")
        return out

    def _traced(self, node: str, edits: Sequence[Edit], capture: Sequence[Capture | str]) -> AbstractContextManager[Any]:
        """A trace of one node; none, which costs a walk through all modules, where nothing is asked of it."""
        if not edits and not capture:
            return nullcontext()
        return trace(self, edits=edits, capture=_of_values(capture), sites=self._sites(),
                     within=lambda site: self._owner(site) == node and self._runs(site))

    def levels(self, request: Request) -> list[float] | None:
        """The noise level of each denoising step; None where the loop is not `diffusion.sampler`'s and cannot pause."""
        from wanlab.diffusion.sampler import Sampler

        sampler = getattr(self, "sampler", None)
        return sampler.sigmas(request.steps) if isinstance(sampler, Sampler) else None

    @property
    def constants(self) -> dict[str, Any]:
        """What outputs depend on beside weights and request: of the configuration what a run reads and no variant changes."""
        read = ("size", "frames", "slots", "scheduler", "negative", "boundary", "tiling")
        return {key: self.config[key] for key in read if key in self.config}

    def generate(self, image: Any = None, prompt: str | Sequence[str] = "", seed: int | Sequence[int] = 0, *,
                 last_image: Any = None, steps: int | None = None, guidance: float | None = None,
                 guidance_2: float | None = None, negative: str | Sequence[str] | None = None,
                 edits: Iterable[Edit] | Edit | None = None, capture: Iterable[Capture | str] | Capture | str | None = None,
                 budget: int | None = 2 * GIB, grad: bool | str = False, checkpoint: bool = False,
                 progress: Progress | None = None) -> Output:
        """Image and prompt to video.

        image       a path, a PIL image, an array (h w c, uint8 or [0, 1]) or a tensor (c h w or b c h w in [0, 1]); None: no image
        prompt      one sentence, or one for each row
        seed        one number, or one for each row
        last_image  the last frame, as `image`, where the pipeline takes one
        steps, guidance: of the sampler; the preset's own where not given. guidance_2: of the second of two experts (Wan2.2)
        edits, capture: see wanlab.core; all are checked before anything runs
        budget      bytes that captures may hold in memory; more refuses before the run
        grad        what keeps its autograd graph: True, or nodes and steps, "detail", "denoise@steps=3", "**@steps=4:"; gradients
                    are captured by a trace around this call and the backward pass (`wanlab.core.gradient`)
        checkpoint  with grad: each step and node is computed again by the backward pass, which holds one of them at a time
        progress    called with (steps done, steps) in the denoising loop

        An edit or capture that did not act as it should raises LedgerError; what was generated is its `result`. ValueError for grad
        where stages move between devices (`offload`), and as `request`. PromptWarning for what of a prompt has no effect.
        """
        request = self.request(image, prompt, seed, last_image=last_image, steps=steps, guidance=guidance, guidance_2=guidance_2,
                               negative=negative)
        warn_of_unread(self, request)
        nodes_steps = {node.name: node.steps for node in self.nodes}
        if grad and self.residence is not None:
            raise ValueError("gradients need every stage where it ran until the backward pass is over: load with offload=False")
        part = Stretch.of(grad, nodes_steps, request.steps, checkpoint) if grad else None
        with self._announced(request), trace(self, edits=edits, capture=_of_values(capture), budget=budget, strict=False,
                                             sites=self._sites(), within=self._runs) as t, stretch.differentiating(part):
            self._admit()
            nodes: dict[str, Outputs] = {}
            for node in self.nodes:
                nodes[node.name] = self._run_here(node.name, nodes, request, progress)
        out = Output(nodes[self.nodes[-1].name]["video"], t.record, t.ledger, request, nodes, self)
        t.ledger.verify(out)
        return out

    def request(self, image: Any = None, prompt: str | Sequence[str] = "", seed: int | Sequence[int] = 0, *,
                last_image: Any = None, steps: int | None = None, guidance: float | None = None, guidance_2: float | None = None,
                negative: str | Sequence[str] | None = None) -> Request:
        """Bring what a caller gives to one row each, with the preset's defaults.

        ValueError for a last frame or a `guidance_2` that it does not take; TypeError for what is no sentence or no number.
        """
        from wanlab.pipelines.inputs import as_images, number, rows, sentences, whole

        if last_image is not None and not self.takes_last:
            raise ValueError(f"{self.config['name']} takes no last frame; wan2.1-flf2v-14b-720p and wan2.2-i2v-a14b do")
        sampler = self.config["sampler"]
        if guidance_2 is not None and "guidance_2" not in sampler:
            raise ValueError(f"{self.config['name']} denoises with one network: guidance_2 is for the second of two experts")
        images, last = (None if one is None else as_images(one, self.config["size"]) for one in (image, last_image))
        prompts, seeds = sentences(prompt, "prompt"), [whole(s, "seed") for s in rows(seed)]
        b = max(len(x) for x in (prompts, seeds, *(one for one in (images, last) if one is not None)))
        images, last = (one.expand(b, *one.shape[1:]) if one is not None and len(one) == 1 else one for one in (images, last))
        second = sampler.get("guidance_2") if guidance_2 is None and guidance is None else guidance_2
        return Request(
            rows(prompts, b, "prompt"), rows(seeds, b, "seed"), images,
            sampler["steps"] if steps is None else whole(steps, "steps"),
            number(sampler["guidance"] if guidance is None else guidance, "guidance"),
            None if negative is None else rows(sentences(negative, "negative"), b, "negative"), last,
            None if second is None else number(second, "guidance_2"),
        )

    def _run_here(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        node, needed = self.node(name), self.resident(name)
        if self.residence is not None and len(needed) == 1:
            self.residence.bring(needed[0])         # of several in turn, the node brings each itself
        here = {key: {k: v.to(self.device) for k, v in inputs[key].items()} for key in node.inputs}
        out = stretch.node(name, node.steps, self._run, name, here, request, progress)
        return {k: _home(v if stretch.covers(name) else v.detach()) for k, v in out.items()}

    def _announced(self, request: Request, part: Segment | None = None) -> AbstractContextManager[Any]:
        part = part or Segment()
        return clock.announce(steps=request.steps, start=part.start, stop=part.until,
                              branches=self.branches(request), seeds=request.seeds,
                              tokens_of=lambda word, row: self.tokens_of(request, word, row),
                              words=[self.words_of(request, row) for row in range(len(request))], text_sites=self.text_sites,
                              grid_of=self.grid_of, steps_of=self.steps_of(request))

    def steps_of(self, request: Request) -> Callable[[str], range | None]:
        """Of a site inside the loop, the steps in which it fires under this request; None: in all. With one branch there is no
        difference of branches."""
        alone = len(self.branches(request)) == 1
        return lambda site: range(0) if alone and matches("sampler.*.difference", site) else None

    def branches(self, request: Request) -> tuple[str, ...]:
        """The guidance branches that this request runs."""
        from wanlab.diffusion.sampler import branches

        return branches(request.guidance)

    @abstractmethod
    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        """Positions of a word of row `row`'s prompt on the text tokens. LookupError lists the prompt's words."""

    def words_of(self, request: Request, row: int) -> list[str]:
        """The words of row `row`'s prompt that the text tokens hold, in order: labels of records. Here none are known."""
        return []

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the text stage's vocabulary does not hold. Here none are known."""
        return []

    def cut_of(self, prompt: str) -> str:
        """What of a prompt the text stage does not take in, in words; empty where it takes in all."""
        return ""

    def grid_of(self, site: str) -> Grid | None:
        """The grid on which the tokens of a site stand (axis n, else j, as of keys and values); None: on none."""
        return None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A pipeline is not called: TypeError names `generate`."""
        raise TypeError("a pipeline is not called itself: pipe.generate(image, prompt, seed=0) makes a video")

    # -- looking ----------------------------------------------------------------------------------------------------------
    def sites(self, pattern: str = "**") -> Sites:
        """The sites that match, with the shapes of one row; an unknown pattern raises with the nearest names."""
        return self._sites().find(pattern)

    def _sites(self) -> Sites:
        if "_known_sites" not in self.__dict__:
            self.__dict__["_known_sites"] = Context().run(self._probed)     # a context in which no trace of the caller's is open
        return self.__dict__["_known_sites"]

    def lineage(self) -> Lineage:
        """How the sites feed each other and the video, from a run of a twin without values."""
        if "_known_lineage" not in self.__dict__:
            self.__dict__["_known_lineage"] = Context().run(self._twin()._lines)
        return self.__dict__["_known_lineage"]

    def _lines(self) -> Lineage:
        from wanlab.pipelines.inputs import sides

        frame = torch.zeros(1, 3, *sides(self.config["size"])) if self.takes_image else None
        steps, guidance = self._dry
        with Lines(self) as lines:
            out = self.generate(frame, last_image=frame if self.takes_last else None, steps=steps, guidance=guidance, grad=True)
        return lines.of(out.video)

    def _twin(self) -> Self:
        """A copy on the meta device: sizes alone, whatever they are."""
        values = [*self.parameters(), *self.buffers()]
        twin = copy.deepcopy(self, {id(value): value.detach().to("meta") for value in values})
        twin.residence = None
        return twin

    def _probed(self) -> Sites:
        with torch.no_grad(), Probe(self) as probe:
            self.dry_run()
        return probe.sites

    def dry_run(self, around: Callable[[str], AbstractContextManager[Any]] = lambda node: nullcontext()) -> Request:
        """Run every node once on one row, each within `around(its name)`; returns what was asked."""
        from wanlab.pipelines.inputs import sides

        self._demand_precision()
        frame = torch.zeros(1, 3, *sides(self.config["size"]))
        request = Request([""], [0], frame, *self._dry, last=frame if self.takes_last else None)
        with self._announced(request):
            nodes: dict[str, Outputs] = {}
            for node in self.nodes:
                with around(node.name):
                    nodes[node.name] = self._run_here(node.name, nodes, request, None)
        return request

    @property
    def _dry(self) -> tuple[int, float]:
        """Denoising steps and guidance under which every site fires."""
        return 1, 2.0

    def node(self, name: str) -> Node:
        """The node of that name. LookupError names the nearest."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LookupError(f"{self.config['name']} has no node {name!r}{suggestion(name, [n.name for n in self.nodes])}")

    def ablate(self, component: str) -> list[Edit]:
        """The edits that remove a component. LookupError names the nearest; TypeError for several at once."""
        if not isinstance(component, str):
            raise TypeError(f"ablate takes the name of one component, not {quoted(component)}; "
                            "of several the edits add up: [*pipe.ablate('text'), *pipe.ablate('image')]")
        if component not in self.components:
            raise LookupError(f"{self.config['name']} has no component {component!r}{suggestion(component, self.components)}; "
                              f"there are {', '.join(self.components)}")
        return self.components[component]()

    def _runs(self, site: str) -> bool:
        """Whether generating runs this site's stage; the discriminator has sites, but only training runs it. May raise, where a
        stage is set to run in a way that has no place for the site."""
        return self._owner(site) is not None

    def _owner(self, site: str) -> str | None:
        """The node that runs a site's stage."""
        for node in self.nodes:
            if any(site.startswith(stage + ".") for stage in node.stages):
                return node.name
        return None

    def check(self, edits: Sequence[Edit], request: Request) -> None:
        """Raise, before anything runs, for whatever `edits` could not do on this pipeline under this request."""
        with self._announced(request), trace(self, edits=edits, sites=self._sites(), within=self._runs, strict=False):
            self._admit()

    def _admit(self) -> None:
        """Raise for what the open traces ask of this pipeline and cannot have, before anything runs; and for its precision."""
        self._demand_precision()

    def _demand_precision(self) -> None:
        """Raise where the weights are in a precision in which it does not run."""

    # -- being ------------------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        """Copies find out about themselves: nodes know the weights of one pipeline, and of a copy they may be changed."""
        return {name: value for name, value in self.__dict__.items() if name not in FOUND_OUT}

    def resident(self, node: str) -> list[list[str]]:
        """The stages that a node needs on the device at once; several lists where it needs one after the other."""
        return [list(self.node(node).stages)]

    def staged(self, device: str | torch.device) -> Self:
        """This pipeline with its weights in main memory, from where each node's stages come to `device` as it runs, and which they
        leave when the next one needs others. `to(device)` ends that."""
        self.to("cpu")
        self.residence = Residence(self, torch.empty(0, device=device).device, torch.device("cpu"))
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As every module's: all stages on one device, for good."""
        self.residence = None
        return super().to(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the stages run."""
        return next(self.parameters()).device if self.residence is None else self.residence.device

    def hash_of(self, *stages: str) -> str:
        """sha256 over the configuration, weights and `rules` (a tokenizer's, a picture's preparation) of some stages; "meta" where
        they have sizes alone."""
        if any(value.is_meta for stage in stages for value in self.get_submodule(stage).parameters()):
            return "meta"
        digest = hashlib.sha256()
        for stage in stages:
            module = self.get_submodule(stage)
            parts = [(path, part.config) for path, part in module.named_modules() if hasattr(part, "config")]
            configs = ", ".join(f"{path!r}: {told(config)}" for path, config in parts)
            digest.update(f"{stage}:{type(module).__name__}:{{{configs}}}".encode())
            if rules := {path: part.rules for path, part in module.named_modules() if hasattr(part, "rules")}:
                digest.update(content_key(rules).encode())
            for name, value in sorted(module.state_dict().items()):
                digest.update(f"{name}:{tuple(value.shape)}:{value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights_hash(self) -> str:
        """sha256 over all nodes' weights."""
        return hashlib.sha256("".join(node.weights_hash for node in self.nodes).encode()).hexdigest()


def _of_values(capture: Iterable[Capture | str] | Capture | str | None) -> list[Capture]:
    """The captures; one of a gradient raises, as none comes back before the run has returned."""
    captures = Capture.several(capture)
    for one in captures:
        if one.grad:
            raise GradientError(f"{one}: a gradient comes back after the run; open the trace around it and the backward pass: "
                                f"with trace(pipe, capture={str(one)!r}): pipe.generate(..., grad=True).video.sum().backward()")
    return captures


def _home(x: Tensor) -> Tensor:
    """On the CPU, where nodes hand over; a tensor without values stays as it is."""
    return x if x.is_meta else x.cpu()
