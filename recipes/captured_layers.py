"""A model's layers in training as CUDA graphs, forward and backward: a replay costs the host what one launch does.

Small batches are bound by the host, which launches some hundred kernels a layer. A pass whose shapes come again is run as
always twice, and noted; from the third time on its layers are replayed. Inputs, outputs and gradients lie where they lay
when the pass was captured: a layer's output is the next one's input, and its gradient likewise. What is not the same again
(other shapes, evaluation, a pass within another whose gradients are still to come) runs as always, layer by layer.

Captured passes share memory, since none begins before the last one's gradients are made; it is theirs until the end, so
passes that take much of the device's are left alone: there the host is not what holds a step up.

Does not capture embeddings, heads, losses or optimisers, which may look at values. Changes no result, beyond what the
order of a GPU's sums does.
"""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers.modeling_layers import GradientCheckpointingLayer

from adapthub.adapters.captures import Captures
from adapthub.adapters.flat import reads_rows

_LOG = logging.getLogger(__name__)
_NOTED = 2  # passes of the same shapes that run as always
_MOST = 8  # shapes that are captured
_SHARE = 0.4  # of the device's memory
_PLAIN = (Tensor, int, float, str, torch.dtype, torch.device, type(None))


class Recorder(Protocol):
    """What captures."""

    def begin(self) -> None:
        """Free what memory is free: passes are recorded next."""

    def warm(self, work: Callable[[], None]) -> None:
        """Run what is recorded next, aside: libraries and compilers prepare themselves."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again, in the same memory. Raises RuntimeError."""

    def fits(self) -> bool:
        """Whether what passes have taken of memory so far can be kept for them."""


class Cuda:
    """Graphs of one device, in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captures = Captures(device)

    def begin(self) -> None:
        torch.cuda.synchronize(self._device)
        gc.collect()
        torch.cuda.empty_cache()

    def warm(self, work: Callable[[], None]) -> None:
        state = torch.cuda.get_rng_state(self._device)
        self._captures.warm(work)
        torch.cuda.set_rng_state(state, self._device)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay: Callable[[], None] = self._captures.record(work).replay
        return replay

    def fits(self) -> bool:
        taken = torch.cuda.max_memory_allocated(self._device)
        return taken <= _SHARE * torch.cuda.get_device_properties(self._device).total_memory


@contextmanager
def captured(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Within: passes of `model` with gradients are captured and replayed, as the module says."""
    stacks = [_Stack(layers, recorder) for layers in _lists(model)]
    try:
        yield
    finally:
        for stack in stacks:
            stack.release()


def _lists(model: nn.Module) -> list[list[nn.Module]]:
    """Layers that run one after the other, each once a pass, as transformers marks them."""
    found = [[*module] for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return [
        layers
        for layers in found
        if all(
            isinstance(each, GradientCheckpointingLayer) and "forward" not in vars(each) for each in layers
        )
    ]


class _Call:
    """How a layer was called: tensors, and all else. Of calls with one `key` a graph serves all."""

    def __init__(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        self.leaves, self.spec = tree_flatten((args, kwargs))
        self.tensors: list[Tensor] = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        kind = self.tensors[0].device.type if self.tensors else "cpu"
        self.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        self.key = (str(self.spec), self.autocast, layer.training, tuple(map(_kind, self.leaves)))
        self.is_plain = bool(self.tensors) and all(isinstance(leaf, _PLAIN) for leaf in self.leaves)

    def without_graph(self) -> _Call:
        """The same with tensors that autograd knows nothing of."""
        call = copy.copy(self)
        call.tensors = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.tensors]
        call.leaves = _with_tensors(self.leaves, call.tensors)
        return call

    def with_tensors(self, tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        """The same arguments and keywords with other tensors."""
        args, kwargs = tree_unflatten(_with_tensors(self.leaves, tensors), self.spec)
        return args, kwargs


def _with_tensors(leaves: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    given = iter(tensors)
    return [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return leaf


class _Pass:
    """One shape of pass: how often it came, how its layers were called, while that is noted, and their graphs once there
    are any."""

    def __init__(self) -> None:
        self.times = 0
        self.calls: list[_Call] = []
        self.given: list[list[int]] = []  # which tensors each layer got, by a number
        self.made: list[list[int]] = []  # and returned
        self.graphs: list[_Graph] | None = None
        self.given_up = False
        self._known: list[weakref.ref[Tensor]] = []

    def note(self, call: _Call, output: Any) -> None:
        """Keep how the next layer was called, and nothing of what its gradients are made of."""
        self.given.append([*map(self._number, call.tensors)])
        self.made.append([self._number(leaf) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)])
        self.calls.append(call.without_graph())

    def forget(self) -> None:
        self.calls, self.given, self.made, self._known = [], [], [], []

    def _number(self, tensor: Tensor) -> int:
        for number, known in enumerate(self._known):
            if known() is tensor:
                return number
        self._known.append(weakref.ref(tensor))
        return len(self._known) - 1


class _Stack:
    """Layers of one list, whose forwards are replaced until `release`."""

    def __init__(self, layers: Sequence[Any], recorder: Recorder) -> None:
        self._layers, self._recorder = layers, recorder
        self._own = [layer.forward for layer in layers]
        self._passes: dict[Any, _Pass] = {}
        self._pass: _Pass | None = None  # that runs now and is noted or replayed
        self._loaded: dict[int, Tensor] = {}  # by address: what layers of this pass have put there
        self._open: list[weakref.ref[Any]] = []  # replays whose gradients are to come
        for place, layer in enumerate(layers):
            layer.forward = partial(self._forward, place)

    def release(self) -> None:
        for layer in self._layers:
            del layer.forward
        self._passes.clear()

    def _forward(self, place: int, *args: Any, **kwargs: Any) -> Any:
        own = self._own[place]
        if not torch.is_grad_enabled() or reads_rows():
            return own(*args, **kwargs)
        call = _Call(self._layers[place], args, kwargs)
        if not call.is_plain:  # a cache, say
            self._pass = None
            return own(*args, **kwargs)
        if place == 0:
            self._begin(call)
        current = self._pass
        if current is None:
            return own(*args, **kwargs)
        if current.graphs is None:
            output = own(*args, **kwargs)
            current.note(call, output)
            return output
        graph = current.graphs[place]
        return self._replayed(graph, call) if call.key == graph.key else own(*args, **kwargs)

    def _begin(self, call: _Call) -> None:
        """Decide how a pass runs that begins so."""
        self._pass = None
        self._loaded.clear()
        self._open = [ref for ref in self._open if (context := ref()) is not None and not context.done]
        found = self._passes.setdefault(call.key, _Pass())
        if self._open or found.given_up:
            return
        found.times += 1
        if found.graphs is None and found.times > _NOTED:
            self._capture(found)
        if found.graphs is not None or found.times == _NOTED:
            self._pass = found

    def _capture(self, found: _Pass) -> None:
        captured = sum(each.graphs is not None for each in self._passes.values())
        whole = len(found.calls) == len(self._layers)
        try:
            if whole and captured < _MOST and self._recorder.fits():
                found.graphs = _graphs(self._own, self._layers, found, self._recorder)
        except RuntimeError:
            _LOG.warning("layers run without CUDA graphs: they cannot be captured", exc_info=True)
        found.given_up = found.graphs is None
        found.forget()

    def _replayed(self, graph: _Graph, call: _Call) -> Any:
        for tensor, place in zip(call.tensors, graph.inputs, strict=True):
            address = place.data_ptr()
            if tensor.data_ptr() != address and self._loaded.get(address) is not tensor:
                place.detach().copy_(tensor.detach())
                self._loaded[address] = tensor
        made: Any = cast(Any, _Replayed).apply(graph, self._open, *call.tensors, *graph.trained)
        return tree_unflatten(_with_tensors(graph.leaves, made), graph.spec)


class _Graph:
    """One layer's pass: where its inputs lie, what it gives, and the gradients of both."""

    def __init__(self, call: _Call, inputs: list[Tensor], layer: nn.Module, own: Callable[..., Any]) -> None:
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
        self.gradients: list[Tensor] = []  # of the outputs
        self.of_inputs: list[Tensor | None] = []
        self.of_trained: Tensor | None = None  # side by side
        self.forward: Callable[[], None] = self._compute
        self.backward: Callable[[], None] = self._differentiate
        self._own, self._autocast = own, call.autocast
        self._arguments = call.with_tensors(inputs)

    def prepare(self, recorder: Recorder) -> None:
        """Record the forward half, after both were tried. Raises RuntimeError."""

        def whole() -> None:
            if len({parameter.dtype for parameter in self.trained}) > 1:
                raise RuntimeError("a layer trains parameters of several dtypes")
            self._compute()
            self.gradients = [torch.zeros_like(output) for output in self.outputs]
            self.trained = [
                p
                for p, found in zip(self.trained, self._found(self.trained), strict=True)
                if found is not None
            ]
            self._compute()
            self._differentiate()

        recorder.warm(whole)
        self.forward = recorder.record(self._compute)

    def record_backward(self, gradients: list[Tensor], recorder: Recorder) -> None:
        """Record the other half, for gradients of the outputs that lie there. Raises RuntimeError."""
        self.gradients = gradients
        self.backward = recorder.record(self._differentiate)

    def _compute(self) -> None:
        kind, dtype, enabled = self._autocast
        args, kwargs = self._arguments
        autocast = torch.autocast(kind, dtype, enabled, cache_enabled=False)
        with torch.enable_grad(), autocast, self._own_leaves():
            self.leaves, self.spec = tree_flatten(self._own(*args, **kwargs))
        self.outputs = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        if not all(output.requires_grad for output in self.outputs):
            raise RuntimeError("a layer returns what has no gradient")

    def _differentiate(self) -> None:
        asked = [tensor for tensor in self.inputs if tensor.requires_grad]
        found = self._found([*asked, *self.trained])
        self.of_inputs = found[: len(asked)]
        of_trained = [gradient.flatten() for gradient in found[len(asked) :] if gradient is not None]
        self.of_trained = torch.cat(of_trained) if of_trained else None

    def _found(self, of: Sequence[Tensor]) -> list[Tensor | None]:
        if not of:
            return []
        leaves = [self._leaves.get(id(tensor), tensor) for tensor in of]
        return [*torch.autograd.grad(self.outputs, leaves, self.gradients, allow_unused=True)]

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


class _Replayed(torch.autograd.Function):
    """A graph's two halves; tensors are there already."""

    @staticmethod
    def forward(ctx: Any, graph: _Graph, open_: list[weakref.ref[Any]], *given: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.done = graph, False
        open_.append(weakref.ref(ctx))
        graph.forward()
        return tuple(output.detach() for output in graph.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        graph: _Graph = ctx.graph
        for gradient, place in zip(gradients, graph.gradients, strict=True):
            if gradient.data_ptr() != place.data_ptr():
                place.copy_(gradient)
        graph.backward()
        ctx.done = True
        of_inputs = iter(graph.of_inputs)
        found = [next(of_inputs) if tensor.requires_grad else None for tensor in graph.inputs]
        if graph.of_trained is None:
            return None, None, *found
        # A copy: the next replay writes there, and gradients may be kept to be added to.
        parts = graph.of_trained.clone().split([parameter.numel() for parameter in graph.trained])
        views = [part.view_as(parameter) for part, parameter in zip(parts, graph.trained, strict=True)]
        return None, None, *found, *views


def _graphs(
    own: Sequence[Callable[..., Any]], layers: Sequence[nn.Module], found: _Pass, recorder: Recorder
) -> list[_Graph]:
    """Every layer of a noted pass: forward from the first to the last, then backward from the last to the first.

    Raises RuntimeError.
    """
    recorder.begin()
    graphs: list[_Graph] = []
    lies: dict[int, Tensor] = {}  # of a noted tensor, by its number
    for place, call in enumerate(found.calls):
        for number, tensor in zip(found.given[place], call.tensors, strict=True):
            if number not in lies:
                lies[number] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        inputs = [lies[number] for number in found.given[place]]
        graph = _Graph(call, inputs, layers[place], own[place])
        graph.prepare(recorder)
        for number, kept in zip(found.made[place], graph.outputs, strict=True):
            lies[number] = kept.detach().requires_grad_()
        graphs.append(graph)
    gradients: dict[int, Tensor] = {}  # of what lies at an address
    for graph in reversed(graphs):
        places = [gradients.get(output.data_ptr()) for output in graph.outputs]
        graph.record_backward(
            [
                torch.empty_like(output) if place is None else place
                for output, place in zip(graph.outputs, places, strict=True)
            ],
            recorder,
        )
        asked = [tensor for tensor in graph.inputs if tensor.requires_grad]
        for tensor, of_input in zip(asked, graph.of_inputs, strict=True):
            if of_input is not None:
                gradients[tensor.data_ptr()] = of_input
    return graphs
