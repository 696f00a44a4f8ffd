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

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers.modeling_layers import GradientCheckpointingLayer

from adapthub.adapters.flat import reads_rows
from adapthub.recipes.layer_graphs import Call, Graph, Noted, Recorder, Replayed, filled, recorded

_LOG = logging.getLogger(__name__)
_BEFORE = 2  # passes of the same shapes that run as always; the last of them is noted
_MOST = 8  # shapes that are captured
_SAYING = ("output_attentions", "output_hidden_states", "output_router_logits")


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


class _Pass:
    """One shape of pass: how often it came, what was noted of it, and then its layers' graphs."""

    def __init__(self) -> None:
        self.times = 0
        self.given_up = False
        self.noted = Noted()
        self.bytes = 0  # that it took, when it ran as always
        self.graphs: list[Graph] | None = None
        self.state: Any = None  # of the layers, when their graphs were made


class _Stack:
    """Layers of one list, whose forwards are replaced until `release`."""

    def __init__(self, layers: Sequence[Any], recorder: Recorder) -> None:
        self._layers, self._recorder = layers, recorder
        self._own = [layer.forward for layer in layers]
        self._passes: dict[Any, _Pass] = {}
        self._pass: _Pass | None = None  # that runs now and is noted or replayed
        self._ran: _Pass | None = None  # that runs now, if as always
        self._next = 0  # the place of the layer that goes on with it
        self._failed = False
        self._holders: list[tuple[nn.Module, str]] = []  # of what is trained
        self._dropouts: list[nn.modules.dropout._DropoutNd] = []
        self._before = 0  # bytes, when it began
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
        call = Call(self._layers[place], args, kwargs)
        if place == 0:
            self._begin(call)
        current = self._pass
        if current is None or place != self._next or not call.is_plain:
            self._pass = None
            return self._run(place, args, kwargs)
        self._next += 1
        if current.graphs is None:
            output = self._run(place, args, kwargs)
            current.noted.note(call, output)
            return output
        graph = current.graphs[place]
        if call.key != graph.key:
            self._pass = None
            return self._run(place, args, kwargs)
        output = self._replayed(graph, call)
        # Whoever keeps what the last one gives shall not see it change.
        return _copied(output) if self._next == len(self._layers) else output

    def _run(self, place: int, args: Any, kwargs: Any) -> Any:
        """A layer as always."""
        output = self._own[place](*args, **kwargs)
        if place == len(self._layers) - 1 and self._ran is not None:
            self._ran.bytes = self._recorder.taken() - self._before
        return output

    def _begin(self, call: Call) -> None:
        """Decide how a pass runs that begins so."""
        self._pass, self._ran, self._next = None, None, 0
        self._loaded.clear()
        self._open = [ref for ref in self._open if (context := ref()) is not None and not context.done]
        if self._open or not call.is_plain:
            return
        found = self._passes.setdefault(call.key, _Pass())
        if found.graphs is not None and found.state != self._state():  # another adapter trains, say
            for each in self._passes.values():
                each.graphs, each.noted, each.times = None, Noted(), 0
            self._recorder.forget()
        found.times += 1
        if found.graphs is None and not found.given_up and found.times >= _BEFORE:
            if self._captured() >= _MOST:
                found.given_up = True
            elif found.times == _BEFORE:
                noted = [each for each in self._passes.values() if each.noted.calls]
                if len(noted) >= _MOST:  # what a pass was given is kept until it comes again
                    noted[0].noted, noted[0].times = Noted(), _BEFORE - 1
                self._pass = found
            else:
                self._capture(found)
        if found.graphs is not None:
            self._pass = found
        elif found.times <= _BEFORE:
            self._ran, self._before = found, self._recorder.taken()

    def _captured(self) -> int:
        return sum(each.graphs is not None for each in self._passes.values())

    def _capture(self, found: _Pass) -> None:
        whole = len(found.noted.calls) == len(self._layers) and not any(map(_has_hooks, self._layers))
        others = [each.bytes for each in self._passes.values() if each is not found and each.graphs is None]
        try:
            if whole and self._recorder.begin(found.bytes, max(others, default=0)):
                found.graphs = recorded(self._own, self._layers, found.noted, self._recorder)
                self._look()
                found.state = self._state()
        except Exception:  # whatever a compiler, a driver or a library raises
            _LOG.warning("layers run without CUDA graphs: they cannot be captured", exc_info=True)
            self._failed = True
            self._passes.clear()  # other shapes' graphs keep memory, and are not replayed any more
        found.given_up = found.graphs is None
        found.noted = Noted()

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

    def _replayed(self, graph: Graph, call: Call) -> Any:
        for tensor, place in zip(call.tensors, graph.inputs, strict=True):
            address = place.data_ptr()
            if tensor.data_ptr() != address and self._loaded.get(address) is not tensor:
                place.detach().copy_(tensor.detach())
                self._loaded[address] = tensor
        made: Any = cast(Any, Replayed).apply(graph, self._open, *call.tensors, *graph.trained)
        return filled(graph.leaves, graph.spec, made)


def _has_hooks(layer: nn.Module) -> bool:
    """Whether somebody hears what parts of a layer compute, who would not hear a replay."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in layer.modules()
    )


def _copied(output: Any) -> Any:
    leaves, spec = tree_flatten(output)
    return tree_unflatten([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
