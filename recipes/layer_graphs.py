"""One pass of layers, noted and then recorded as CUDA graphs: what each layer is given, returns and learns by lies still.

A layer's output is the next one's input, and its gradient likewise, so that nothing is copied between them. Does not decide
which passes are recorded, or when they are replayed (captured_layers does).
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from adapthub.adapters.captures import Captures

_SHARE = 0.4  # of the device's memory, that a pass may take
_SPARE = 0.8  # of the memory that is free
_BESIDE = 0.9  # of it, with what a pass takes that is not recorded
_PLAIN = (int, float, str, torch.dtype, torch.device, type(None))
_TENSOR = object()  # stands for one


class Recorder(Protocol):
    """What captures the passes of one list of layers."""

    def taken(self) -> int:
        """Bytes of the device's memory that are in use."""

    def begin(self, taken: int, beside: int) -> bool:
        """Free what memory is free: a pass is recorded next that takes so many bytes, for good. Whether it fits, beside
        passes that run as always and take up to `beside`."""

    def warm(self, work: Callable[[], None]) -> None:
        """Run what is recorded next, aside: libraries and compilers prepare themselves."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again, in the same memory. Raises what a compiler or a driver raises; work there must be."""

    def forget(self) -> None:
        """Nothing that was recorded is there any more."""


class Cuda:
    """Graphs of one device, in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captures = Captures(device)

    def taken(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def begin(self, taken: int, beside: int) -> bool:
        torch.cuda.synchronize(self._device)
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return fits(taken, beside, free, total)

    def warm(self, work: Callable[[], None]) -> None:
        state = torch.cuda.get_rng_state(self._device)
        self._captures.warm(work)
        torch.cuda.set_rng_state(state, self._device)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay: Callable[[], None] = self._captures.record(work).replay
        return replay

    def forget(self) -> None:
        self._captures.begin_anew()


def fits(taken: int, beside: int, free: int, total: int) -> bool:
    """Whether a pass may keep so many bytes of what is free. Others that run as always, such as one that takes more than
    may be kept, come again too: they are not to find that their memory is gone."""
    return taken <= min(_SHARE * total, _SPARE * free, _BESIDE * free - beside)


class Call:
    """How a layer was called: tensors, and all else. Of calls with one `key` a graph serves all."""

    def __init__(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, self.spec = tree_flatten((args, kwargs))
        self.tensors: list[Tensor] = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.leaves = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        kind = self.tensors[0].device.type if self.tensors else "cpu"
        self.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        self.is_plain = bool(self.tensors) and all(
            leaf is _TENSOR or isinstance(leaf, _PLAIN) for leaf in self.leaves
        )
        same = tuple(_firsts(self.tensors))
        self.key = (str(self.spec), self.autocast, layer.training, tuple(map(_kind, leaves)), same)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return leaf


def _firsts(tensors: Sequence[Tensor]) -> list[int]:
    """Of each, where it stands first: a layer may be given one twice."""
    places = [id(tensor) for tensor in tensors]
    return [*map(places.index, places)]


def filled(leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor]) -> Any:
    given = iter(tensors)
    return tree_unflatten([next(given) if leaf is _TENSOR else leaf for leaf in leaves], spec)


class Noted:
    """How the layers of a pass were called and what they returned, without anything that they made."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.given: list[list[int]] = []  # which tensors each layer got, by a number
        self.made: list[list[int]] = []  # and returned
        self.samples: dict[int, Tensor] = {}  # of those that no layer made
        self._known: list[weakref.ref[Tensor]] = []

    def note(self, call: Call, output: Any) -> None:
        """The next layer's."""
        numbers = [*map(self._number, call.tensors)]
        made = {number for numbers in self.made for number in numbers}
        for number, tensor in zip(numbers, call.tensors, strict=True):
            if number not in made:
                self.samples[number] = tensor.detach().requires_grad_(tensor.requires_grad)
        self.given.append(numbers)
        self.made.append([self._number(leaf) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)])
        self.calls.append(call)
        call.tensors = []

    def _number(self, tensor: Tensor) -> int:
        for number, known in enumerate(self._known):
            if known() is tensor:
                return number
        self._known.append(weakref.ref(tensor))
        return len(self._known) - 1


class Graph:
    """One layer's pass: where its inputs lie, what it gives, and the gradients of both."""

    def __init__(self, call: Call, inputs: list[Tensor], layer: nn.Module, own: Callable[..., Any]) -> None:
        self.key, self.inputs = call.key, inputs
        self.trained = [p for p in layer.parameters() if p.requires_grad]
        # Leaves of their own, which no other graph knows: what autograd keeps of a leaf is of the stream that it came from.
        self._leaves = {id(p): nn.Parameter(p.detach()) for p in self.trained}
        self._holders = [
            (module, name)
            for module in layer.modules()
            for name, p in module.named_parameters(recurse=False)
            if id(p) in self._leaves
        ]
        self.leaves: list[Any] = []  # of what it returns
        self.spec: Any = None
        self.outputs: list[Tensor] = []
        self.gradients: list[Tensor] = []  # of the outputs that have one
        self.of_inputs: list[Tensor | None] = []
        self.of_trained: Tensor | None = None  # side by side
        self.forward: Callable[[], None] = _nothing  # until they are recorded
        self.backward: Callable[[], None] = _nothing
        self._own, self._autocast = own, call.autocast
        self._args, self._kwargs = filled(call.leaves, call.spec, inputs)

    @property
    def differentiated(self) -> list[Tensor]:
        """The outputs that have a gradient."""
        return [output for output in self.outputs if output.requires_grad]

    def prepare(self, recorder: Recorder) -> None:
        """Record the forward half, after both were tried. Raises RuntimeError."""

        def whole() -> None:
            if len({parameter.dtype for parameter in self.trained}) > 1:
                raise RuntimeError("a layer trains parameters of several dtypes")
            self._compute()
            self.gradients = [torch.zeros_like(output) for output in self.differentiated]
            found = self._found(self.trained)
            self.trained = [p for p, of_p in zip(self.trained, found, strict=True) if of_p is not None]
            self._compute()
            self._differentiate()

        recorder.warm(whole)
        self.forward = recorder.record(self._compute)

    def record_backward(self, gradients: list[Tensor], recorder: Recorder) -> None:
        """Record the other half, for gradients of the outputs that lie there; of outputs without any there is none."""
        self.gradients = gradients
        if self.differentiated:
            self.backward = recorder.record(self._differentiate)
        else:
            self._differentiate()

    def _compute(self) -> None:
        kind, dtype, enabled = self._autocast
        autocast = torch.autocast(kind, dtype, enabled, cache_enabled=False)
        with torch.enable_grad(), autocast, self._own_leaves():
            leaves, self.spec = tree_flatten(self._own(*self._args, **self._kwargs))
        self.outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.leaves = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if len({output.data_ptr() for output in self.outputs}) < len(self.outputs):
            raise RuntimeError("a layer returns the same tensor twice")

    def _differentiate(self) -> None:
        asked = [tensor for tensor in self.inputs if tensor.requires_grad]
        found = self._found([*asked, *self.trained])
        # What is given twice has one gradient, of both.
        self.of_inputs = [
            found[place] if place == first else None for place, first in enumerate(_firsts(asked))
        ]
        of_trained = [gradient.flatten() for gradient in found[len(asked) :] if gradient is not None]
        self.of_trained = torch.cat(of_trained) if of_trained else None

    def _found(self, of: Sequence[Tensor]) -> list[Tensor | None]:
        outputs = self.differentiated
        if not of or not outputs:
            return [None] * len(of)
        leaves = [self._leaves.get(id(tensor), tensor) for tensor in of]
        with torch.autocast(self._autocast[0], enabled=False):  # as where backward is called
            return [*torch.autograd.grad(outputs, leaves, self.gradients, allow_unused=True)]

    @contextmanager
    def _own_leaves(self) -> Iterator[None]:
        parameters = [module._parameters[name] for module, name in self._holders]
        for (module, name), parameter in zip(self._holders, parameters, strict=True):
            module._parameters[name] = self._leaves[id(parameter)]
        try:
            yield
        finally:
            for (module, name), parameter in zip(self._holders, parameters, strict=True):
                module._parameters[name] = parameter


def _nothing() -> None:
    """What a half comes to that has no work."""


class Replayed(torch.autograd.Function):
    """A graph's two halves; what it reads is there already."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, open_: list[weakref.ref[Any]], *given: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.done = graph, False
        open_.append(weakref.ref(ctx))
        graph.forward()
        made = tuple(output.detach() for output in graph.outputs)
        ctx.has_gradient = [output.requires_grad for output in graph.outputs]
        ctx.mark_non_differentiable(
            *(one for one, has in zip(made, ctx.has_gradient, strict=True) if not has)
        )
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if ctx.done:
            raise RuntimeError("gradients of a replayed pass are made once: what they are made of is gone")
        graph: Graph = ctx.graph
        given = [gradient for gradient, has in zip(gradients, ctx.has_gradient, strict=True) if has]
        for gradient, place in zip(given, graph.gradients, strict=True):
            if gradient.data_ptr() != place.data_ptr():
                place.copy_(gradient)
        graph.backward()
        ctx.done = True
        of_inputs = iter(graph.of_inputs)
        found = [next(of_inputs) if tensor.requires_grad else None for tensor in graph.inputs]
        if graph.of_trained is None:
            return None, None, *found, *[None] * len(graph.trained)
        # A copy: the next replay writes there, and gradients may be kept to be added to.
        parts = graph.of_trained.clone().split([parameter.numel() for parameter in graph.trained])
        views = [part.view_as(parameter) for part, parameter in zip(parts, graph.trained, strict=True)]
        return None, None, *found, *views


def recorded(
    own: Sequence[Callable[..., Any]], layers: Sequence[nn.Module], noted: Noted, recorder: Recorder
) -> list[Graph]:
    """Every layer of a noted pass: forward from the first to the last, then backward from the last to the first."""
    graphs: list[Graph] = []
    lies = {
        number: sample.detach().clone().requires_grad_(sample.requires_grad)
        for number, sample in noted.samples.items()
    }
    for place, call in enumerate(noted.calls):
        graph = Graph(call, [lies[number] for number in noted.given[place]], layers[place], own[place])
        graph.prepare(recorder)
        for number, kept in zip(noted.made[place], graph.outputs, strict=True):
            lies.setdefault(number, kept.detach().requires_grad_(kept.requires_grad))
        graphs.append(graph)
    gradients: dict[int, Tensor] = {}  # of what lies at an address
    for graph in reversed(graphs):
        outputs = graph.differentiated
        places = [gradients.get(output.data_ptr()) for output in outputs]
        graph.record_backward(
            [
                torch.empty_like(output) if place is None else place
                for output, place in zip(outputs, places, strict=True)
            ],
            recorder,
        )
        asked = [tensor for tensor in graph.inputs if tensor.requires_grad]
        for tensor, of_input in zip(asked, graph.of_inputs, strict=True):
            if of_input is not None:
                gradients.setdefault(tensor.data_ptr(), of_input)
    return graphs
