"""AR loops as CUDA graphs: at small batches launches, and not arithmetic, are what a loop costs a GPU (docs/scaling.md)."""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.families.mar.loop import Loop, Randomness, plan_loops, run_loop, sample_loops
from marval_ray.families.mar.model import MAR

SWITCH = "MARVAL_CUDA_GRAPHS"
"""An environment variable: 1 has batches on a GPU drawn by graphs."""


class GraphedLoops:
    """The loops of batches of one size by one model and sampler: a graph for each loop, captured when it is first met.

    A graph reads weights where they lay when it was captured, so they may change in place and not move. One batch at a time.
    The model is an argument, so that graphs do not keep it alive.
    """

    def __init__(self, sampler: TokenSampler, labels: Int64[Tensor, " B"], random: Randomness):
        self.sampler = sampler
        with torch.inference_mode(False):  # such tensors can be written to in either mode
            self.labels, self.tokens = torch.zeros_like(labels), torch.zeros_like(random.initial)
            self.random = Randomness(random.orders, torch.zeros_like(random.initial), torch.zeros_like(random.steps))
        self.graphs: dict[tuple[int, int, float], tuple[torch.cuda.CUDAGraph, Loop]] = {}

    @cached_property
    def pool(self) -> Any:
        """Memory that all graphs share, as loops follow each other."""
        return torch.cuda.graph_pool_handle()

    def sample(
        self, model: MAR, labels: Int64[Tensor, " B"], random: Randomness, loops: int
    ) -> Iterator[Float[Tensor, "B L D"]]:  # fmt: skip
        """Yield what `sample_loops` yields."""
        self.labels.copy_(labels)
        self.random.initial.copy_(random.initial)
        self.random.steps.copy_(random.steps)
        self.tokens.zero_()
        for loop in plan_loops(random.orders, loops, self.sampler.reveal):
            self._replay(model, loop)
            yield self.tokens.clone()

    def _replay(self, model: MAR, loop: Loop) -> None:
        key = loop.known.shape[1], loop.predicted.shape[1], loop.revealed
        if key not in self.graphs:
            self.graphs[key] = self._captured(model, loop)
        graph, kept = self.graphs[key]
        kept.known.copy_(loop.known)
        kept.predicted.copy_(loop.predicted)
        graph.replay()

    def _captured(self, model: MAR, loop: Loop) -> tuple[torch.cuda.CUDAGraph, Loop]:
        with torch.inference_mode(False):
            kept = Loop(loop.known.clone(), loop.predicted.clone(), loop.revealed)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run(model, kept)  # libraries choose their kernels, which a capture must not see
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            self.tokens.copy_(self._run(model, kept))
        return graph, kept

    def _run(self, model: MAR, loop: Loop) -> Float[Tensor, "B L D"]:
        return run_loop(model, self.sampler, self.tokens, self.labels, loop, self.random)


class Graphs:
    """The graphs of one model. Its weights are where `places` says; when they move, all graphs go."""

    def __init__(self) -> None:
        self.places: tuple[int, ...] = ()
        self.known: dict[tuple[object, ...], GraphedLoops | None] = {}

    def of(self, model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], random: Randomness) -> GraphedLoops | None:
        """Return the graphs of batches of this size; none for a size that is met for the first time, which may be the last."""
        places = tuple(parameter.data_ptr() for parameter in model.parameters())
        if places != self.places:
            self.places, self.known = places, {}
        key = sampler, random.steps.shape, random.initial.shape
        if key not in self.known:
            self.known[key] = None
            return None
        self.known[key] = self.known[key] or GraphedLoops(sampler, labels, random)
        return self.known[key]


_OF_MODELS: WeakKeyDictionary[MAR, Graphs] = WeakKeyDictionary()


def draw_loops(
    model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], random: Randomness, loops: int
) -> Iterator[Float[Tensor, "B L D"]]:
    """Yield the tokens after each AR loop, by graphs where they are wanted and can be had: without gradient, in the weights' own dtype."""
    wanted = os.environ.get(SWITCH) == "1" and labels.is_cuda
    if not wanted or torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"):
        return sample_loops(model, sampler, labels, random, loops)
    graphed = _OF_MODELS.setdefault(model, Graphs()).of(model, sampler, labels, random)
    return graphed.sample(model, labels, random, loops) if graphed else sample_loops(model, sampler, labels, random, loops)
