"""CUDA graphs: work that is captured once, and done again by one launch.

A capture that fails leaves the device as it was: streams, memory and random numbers go on. Does not choose what to capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

_WARM_UPS = 2  # before a capture: kernels are compiled and libraries set up


class Captures:
    """Captures on one stream of a device and, until `begin_anew`, into one pool of memory: graphs use each other's."""

    def __init__(self, device: torch.device) -> None:
        self.device = (
            device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        )
        # Of a priority of its own, and so of a pool of streams that no loader takes one from.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self.begin_anew()

    def begin_anew(self) -> None:
        """The graphs so far are gone: their pool too."""
        self._pool = torch.cuda.graph_pool_handle()

    def of(self, run: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """`run`, warmed up and captured. Raises what it raises, and RuntimeError for what cannot be captured."""
        self.warm(run)
        return self.record(run)

    def warm(self, run: Callable[[], object]) -> None:
        """Run it on the stream of captures."""
        with self._aside():
            for _ in range(_WARM_UPS):
                run()
            self._stream.synchronize()

    def record(self, run: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """`run`, which ran before, captured. Raises as `of`."""
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self.device.index]
        before = generator.clone_state()
        with self._aside():
            # Not torch.cuda.graph, which leaves its stream and its pool open where a capture fails. Other threads load
            # adapters meanwhile: what they do is no part of the graph, and allowed.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                run()
                graph.capture_end()
            except BaseException:
                self._close(graph)
                generator.graphsafe_set_state(before)  # the one there takes a capture to be under way
                raise
        return graph

    def _close(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed. One that CUDA does not end keeps its pool's memory: torch counts it as in use."""
        try:
            graph.capture_end()
        except RuntimeError:
            # It did not come to its last act, without which the allocator takes a capture to be under way for ever.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.device.index, self._pool)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        except BaseException:
            torch.cuda.synchronize(self.device)  # what was begun may read what is freed now
            raise
        current.wait_stream(self._stream)
