"""A model's layers in training as CUDA graphs, forward and backward: a replay costs the host what one launch does.

Small batches are bound by the host, which launches some hundred kernels a layer. A pass whose shapes come again runs as
always twice, the second time noted; from the third time on its layers are replayed. Inputs, outputs and gradients lie where
they lay when the pass was captured: a layer's output is the next one's input, and its gradient likewise. What is not the
same again (other shapes, evaluation, a pass within another whose gradients are still to come) runs as always. So do models
whose layers say more than they return (attentions, a router's logits), and what cannot be captured.

Passes of one list of layers share memory, since none begins before the last one's gradients are made; it is theirs until
the end, so a pass that takes much of the device's is left alone: there the host is not what holds a step up.

Does not capture embeddings, heads, losses or optimisers, which may look at values. Changes no result, beyond what the
order of a GPU's sums does.
"""

from __future__ import annotations

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
_BEFORE = 2  # passes of the same shapes that run as always; the last of them is noted
_MOST = 8  # shapes that are captured
_SHARE = 0.4  # of the device's memory, that a pass may take
_SPARE = 0.8  # of the memory that is free
_PLAIN = (int, float, str, torch.dtype, torch.device, type(None))
_TENSOR = object()  # stands for one
_SAYING = ("output_attentions", "output_hidden_states", "output_router_logits")


class Recorder(Protocol):
    """What captures the passes of one list of layers."""

    def taken(self) -> int:
        """Bytes of the device's memory that are in use."""

    def begin(self, taken: int) -> bool:
        """Free what memory is free: a pass is recorded next that takes so many bytes. Whether it fits."""

    def warm(self, work: Callable[[], None]) -> None:
        """Run what is recorded next, aside: libraries and compilers prepare themselves."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again, in the same memory. Raises what a compiler or a driver raises."""


class Cuda:
    """Graphs of one device, in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captures = Captures(device)

    def taken(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def begin(self, taken: int) -> bool:
        torch.cuda.synchronize(self._device)
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return taken <= min(_SHARE * total, _SPARE * free)

    def warm(self, work: Callable[[], None]) -> None:
        state = torch.cuda.get_rng_state(self._device)
        self._captures.warm(work)
        torch.cuda.set_rng_state(state, self._device)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay: Callable[[], None] = self._captures.record(work).replay
        return replay


@contextmanager
def captured(model: nn.Module, recorder: Callable[[], Recorder]) -> Iterator[None]:
    """Within: passes of `model` with gradients are captured and replayed, as the module says.

    A `recorder` is made for every list of layers: another's passes may begin before the gradients of this one's are made.
    """
    stacks = [_Stack(layers, recorder()) for layers in _lists(model)]
    try:
        yield
    finally:
        for stack in stacks:
            stack.release()


def _lists(model: nn.Module) -> list[list[nn.Module]]:
    """Layers that run one after the other, each once a pass, as transformers marks them, and that lie in no other such."""
    if any(getattr(getattr(model, "config", None), name, False) for name in _SAYING):
        return []
    lists: list[list[nn.Module]] = []
    within: set[int] = set()
    for module in model.modules():  # from the outside in
        layers = [*module] if isinstance(module, nn.ModuleList) else []
        if layers and id(module) not in within and all(map(_is_a_layer, layers)):
            lists.append(layers)
            within |= {id(inner) for layer in layers for inner in layer.modules()}
    return lists


def _is_a_layer(module: nn.Module) -> bool:
    return isinstance(module, GradientCheckpointingLayer) and "forward" not in vars(module)


class _Call:
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
        self.key = (str(self.spec), self.autocast, layer.training, tuple(map(_kind, leaves)))


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return leaf


def _filled(leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor]) -> Any:
    given = iter(tensors)
    return tree_unflatten([next(given) if leaf is _TENSOR else leaf for leaf in leaves], spec)


class _Pass:
    """One shape of pass: how often it came, how its layers were called, once that was noted, and then their graphs."""

    def __init__(self) -> None:
        self.times = 0
        self.given_up = False
        self.graphs: list[_Graph] | None = None
        self.state: Any = None  # of the layers, when their graphs were made
        self.forget()

    def forget(self) -> None:
        self.calls: list[_Call] = []
        self.given: list[list[int]] = []  # which tensors each layer got, by a number
        self.made: list[list[int]] = []  # and returned
        self.samples: dict[int, Tensor] = {}  # of those that no layer made
        self.bytes = 0
        self._known: list[weakref.ref[Tensor]] = []

    def note(self, call: _Call, output: Any) -> None:
        """Keep how the next layer was called, and nothing that layers made."""
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


class _Stack:
    """Layers of one list, whose forwards are replaced until `release`."""

    def __init__(self, layers: Sequence[Any], recorder: Recorder) -> None:
        self._layers, self._recorder = layers, recorder
        self._own = [layer.forward for layer in layers]
        self._passes: dict[Any, _Pass] = {}
        self._pass: _Pass | None = None  # that runs now and is noted or replayed
        self._next = 0  # the place of the layer that goes on with it
        self._failed = False
        self._holders: list[tuple[nn.Module, str]] = []  # of what is trained
        self._dropouts: list[nn.modules.dropout._DropoutNd] = []
        self._before = 0  # bytes, when a noted pass began
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
        if self._failed or not torch.is_grad_enabled() or reads_rows():
            return own(*args, **kwargs)
        call = _Call(self._layers[place], args, kwargs)
        if place == 0:
            self._begin(call)
        current = self._pass
        if current is None or place != self._next or not call.is_plain:
            self._pass = None
            return own(*args, **kwargs)
        self._next += 1
        if current.graphs is None:
            output = own(*args, **kwargs)
            current.note(call, output)
            if self._next == len(self._layers):
                current.bytes = self._recorder.taken() - self._before
            return output
        graph = current.graphs[place]
        if call.key != graph.key:
            self._pass = None
            return own(*args, **kwargs)
        output = self._replayed(graph, call)
        # Whoever keeps what the last one gives shall not see it change.
        return _copied(output) if self._next == len(self._layers) else output

    def _begin(self, call: _Call) -> None:
        """Decide how a pass runs that begins so."""
        self._pass, self._next = None, 0
        self._loaded.clear()
        self._open = [ref for ref in self._open if (context := ref()) is not None and not context.done]
        if self._open or not call.is_plain:
            return
        found = self._passes.setdefault(call.key, _Pass())
        if found.graphs is not None and found.state != self._state():  # another adapter trains, say
            for each in self._passes.values():
                each.graphs, each.times = None, 0
        found.times += 1
        if found.given_up or found.times < _BEFORE:
            return
        if found.graphs is None and sum(each.graphs is not None for each in self._passes.values()) >= _MOST:
            found.given_up = True
        elif found.graphs is None and found.times == _BEFORE:
            self._before = self._recorder.taken()
            self._pass = found
        elif found.graphs is None:
            self._capture(found)
        if found.graphs is not None:
            self._pass = found

    def _capture(self, found: _Pass) -> None:
        whole = len(found.calls) == len(self._layers) and not any(map(_has_hooks, self._layers))
        try:
            if whole and self._recorder.begin(found.bytes):
                found.graphs = _graphs(self._own, self._layers, found, self._recorder)
                self._look()
                found.state = self._state()
        except Exception:  # whatever a compiler, a driver or a library raises
            _LOG.warning("layers run without CUDA graphs: they cannot be captured", exc_info=True)
            self._failed = True
        found.given_up = found.graphs is None
        found.forget()

    def _look(self) -> None:
        modules = [module for layer in self._layers for module in layer.modules()]
        self._dropouts = [module for module in modules if isinstance(module, nn.modules.dropout._DropoutNd)]
        self._holders = [
            (module, name)
            for module in modules
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        ]

    def _state(self) -> Any:
        """What graphs read by its address, and were captured for beside their inputs."""
        held = [module._parameters[name] for module, name in self._holders]
        trained = [(id(p), p.data_ptr(), p.requires_grad) for p in held if p is not None]
        return trained, [(module.training, module.p) for module in self._dropouts]

    def _replayed(self, graph: _Graph, call: _Call) -> Any:
        for tensor, place in zip(call.tensors, graph.inputs, strict=True):
            address = place.data_ptr()
            if tensor.data_ptr() != address and self._loaded.get(address) is not tensor:
                place.detach().copy_(tensor.detach())
                self._loaded[address] = tensor
        made: Any = cast(Any, _Replayed).apply(graph, self._open, *call.tensors, *graph.trained)
        return _filled(graph.leaves, graph.spec, made)


def _has_hooks(layer: nn.Module) -> bool:
    """Whether somebody hears what parts of a layer compute, who would not hear a replay."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in layer.modules()
    )


def _copied(output: Any) -> Any:
    leaves, spec = tree_flatten(output)
    return tree_unflatten([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


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
        self.gradients: list[Tensor] = []  # of the outputs that have one
        self.of_inputs: list[Tensor | None] = []
        self.of_trained: Tensor | None = None  # side by side
        self.forward: Callable[[], None] = self._compute
        self.backward: Callable[[], None] = self._differentiate
        self._own, self._autocast = own, call.autocast
        self._args, self._kwargs = _filled(call.leaves, call.spec, inputs)

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
        """Record the other half, for gradients of the outputs that lie there."""
        self.gradients = gradients
        self.backward = recorder.record(self._differentiate)

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
        self.of_inputs = found[: len(asked)]
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


class _Replayed(torch.autograd.Function):
    """A graph's two halves; what it reads is there already."""

    @staticmethod
    def forward(ctx: Any, graph: _Graph, open_: list[weakref.ref[Any]], *given: Tensor) -> tuple[Tensor, ...]:
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
        graph: _Graph = ctx.graph
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


def _graphs(
    own: Sequence[Callable[..., Any]], layers: Sequence[nn.Module], found: _Pass, recorder: Recorder
) -> list[_Graph]:
    """Every layer of a noted pass: forward from the first to the last, then backward from the last to the first."""
    graphs: list[_Graph] = []
    lies = {
        number: sample.detach().clone().requires_grad_(sample.requires_grad)
        for number, sample in found.samples.items()
    }
    for place, call in enumerate(found.calls):
        graph = _Graph(call, [lies[number] for number in found.given[place]], layers[place], own[place])
        graph.prepare(recorder)
        for number, kept in zip(found.made[place], graph.outputs, strict=True):
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
