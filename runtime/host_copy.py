"""An adapter in host memory: read and verified, so that putting it into a slot needs no disk; and bytes, counted.

Where the base is on CUDA, the tensors are in pinned memory, and a LoRA's in one block that `attach_from` copies at once,
on a stream of its own: the engine's stream never waits for it. On the CPU the slot uses these very tensors. What a base made
of a copy of plain LoRAs is remembered with it, so that the next time it is put together again and not checked: every value
and name was, the first time, and they are the same ones.

Does not decide what is kept, and knows no budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import nn

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.binder import Binding
from adapthub.adapters.delta import LowRank
from adapthub.adapters.lora_facts import LORA_KEY
from adapthub.adapters.served_heads import Head
from adapthub.runtime.block import Block, Image


@dataclass(frozen=True)
class HostCopy(Artifact):
    """An artifact whose tensors are in memory: `tensors` reads nothing. They are shared: nobody changes them."""

    held: Mapping[str, torch.Tensor] = field(compare=False, repr=False)
    block: Block | None = field(compare=False, repr=False, default=None)
    image: Image | None = field(compare=False, repr=False, default=None)
    # What the one base that it is for made of it, once that is known; all copies of the copy share it.
    _bound: list[_Bound] = field(compare=False, repr=False, default_factory=list)

    @classmethod
    def load(cls, artifact: Artifact, device: torch.device, dtype: torch.dtype) -> HostCopy:
        """Read `artifact`'s tensors for a base on `device` that computes in `dtype`. Raises what Artifact.tensors raises."""
        tensors, block = artifact.tensors(), None
        if device.type == "cuda":
            # In the base's dtype already: mostly half of the bytes, of pinned memory and of every copy to come.
            block = Block(
                {name: tensor.to(dtype) for name, tensor in tensors.items() if _moves_whole(name)}, pin=True
            )
            rest = Block(
                {name: each for name, each in tensors.items() if name not in block.tensors}, pin=True
            )
            tensors = {**block.tensors, **rest.tensors}
        plain = without_bytes(artifact)
        own = {item.name: getattr(plain, item.name) for item in fields(plain)}
        return cls(**own, held=tensors, block=block)

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.held)

    def placed(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        there = None if self.image is None else self.image.of(tensor)
        return super().placed(tensor, device, dtype) if there is None else there

    def on(self, device: torch.device, dtype: torch.dtype) -> HostCopy:
        """The same with what moves whole on the device already, or on its way there on the current stream."""
        return self if self.block is None else replace(self, image=self.block.image(device, dtype))

    def remember(self, binding: Binding, device: torch.device, dtype: torch.dtype) -> None:
        """Keep what was made of this copy, if all of it is LoRAs of its own tensors."""
        held = self.held if self.block is None else self.block.tensors
        groups = binding.updates.items()
        if len(held) < len(self.held) or binding.head is not None or binding.prefix is not None:
            return
        if self.block is None and any((each.device, each.dtype) != (device, dtype) for each in held.values()):
            return
        names = {self.placed(tensor, device, dtype).data_ptr(): name for name, tensor in held.items()}
        updates = []
        for path, group in groups:
            for update in group:
                if type(update) is not LowRank or update.bias is not None or len(group) > 1:
                    return
                a, b = (names.get(matrix.data_ptr()) for matrix in (update.a, update.b))
                if a is None or b is None:
                    return
                updates.append((path, a, b, update.scale))
        self._bound[:] = [_Bound(replace(binding, updates={}), tuple(updates))]

    def bound(self, device: torch.device, dtype: torch.dtype) -> Binding | None:
        """What `remember` kept, of the tensors as they are placed now; None where it kept nothing."""
        if not self._bound:
            return None
        (bound,) = self._bound
        place = partial(self.placed, device=device, dtype=dtype)
        updates = {
            path: (LowRank(place(self.held[a]), place(self.held[b]), scale),)
            for path, a, b, scale in bound.updates
        }
        return replace(bound.binding, updates=updates)

    @cached_property
    def host_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.held.values())

    def slot_bytes(self, dtype: torch.dtype) -> int:
        """What the tensors come to in a base of `dtype`; binding may add to it (a DoRA's gains) or drop some."""
        return sum(
            tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
            for tensor in self.held.values()
        )


@dataclass(frozen=True)
class _Bound:
    """A binding less its updates, and those: path, names of a and b, and scale."""

    binding: Binding
    updates: tuple[tuple[str, str, str, float], ...]


def without_bytes(artifact: Artifact) -> Artifact:
    """The same artifact, less the weights' bytes that reading a folder keeps until they are used."""
    return replace(artifact, _unused_weights=[])


def attach_from(copy: HostCopy, adapted: AdaptedBase) -> None:
    """Attach, and return when the tensors are in place. Raises what AdaptedBase.attach raises."""
    device = adapted.base.device
    if device.type != "cuda":
        _attach(copy, adapted)
        return
    stream, passes = _loading(device), torch.cuda.default_stream(device)
    stream.wait_stream(passes)  # the base may be on its way there itself
    with torch.cuda.stream(stream):
        for tensor in _attach(copy.on(device, adapted.base.dtype), adapted):
            if tensor.is_cuda:
                # Its memory becomes another's only when passes that were queued before it was detached have ended.
                tensor.record_stream(passes)
    stream.synchronize()


@cache
def _loading(device: torch.device) -> torch.cuda.Stream:
    """One for all loads: what is freed serves the stream again that it was taken on, and no other."""
    return torch.cuda.Stream(device)


def _attach(copy: HostCopy, adapted: AdaptedBase) -> Iterable[torch.Tensor]:
    """Returns what is there for it now, and perhaps some of the base's own."""
    device, dtype = adapted.base.device, adapted.base.dtype
    again = copy.bound(device, dtype)
    if again is not None:
        adapted.put(again)
        return () if copy.image is None else copy.image.regions
    adapted.attach(copy)
    binding = adapted.attached.get(copy.digest)
    if binding is None:
        return ()
    copy.remember(binding, device, dtype)
    return _tensors(binding, set())


def own_storages(adapted: AdaptedBase) -> frozenset[int]:
    """Where the base's own parameters and buffers begin: they stay where they are."""
    model = adapted.base.model
    return frozenset(_storage(t).data_ptr() for t in (*model.parameters(), *model.buffers()))


def attached_bytes(digest: str, adapted: AdaptedBase, own: frozenset[int]) -> int:
    """Bytes that an attached adapter holds beside the base's `own` tensors."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for storage in map(_storage, _tensors(adapted.attached[digest], set()))
    }
    return sum(size for pointer, size in storages.items() if pointer not in own)


def _moves_whole(name: str) -> bool:
    """Whether a base gets this tensor as it is: of LoRA, but an embedding's, which is transposed there."""
    match = LORA_KEY.fullmatch(name)
    return match is not None and not match["part"].startswith("lora_embedding")


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _tensors(value: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor inside dataclasses, collections and modules, however deep."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: Any = ()
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        inner = (*value.parameters(), *value.buffers())
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (tuple, list)):
        inner = value
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, item.name) for item in dataclasses.fields(value)]
    elif isinstance(value, Head):
        inner = value.tensors.values()
    for part in inner:
        yield from _tensors(part, seen)
