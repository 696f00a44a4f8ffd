"""Tensors behind each other in one piece of host memory, so that a device gets all of them by one copy.

They lie by dtype, each at a multiple of 64 bytes, and what is floating is brought into the device's dtype there, a dtype at
a time: a LoRA of 336 matrices takes one copy and one kernel in place of 336 copies, each of which the host would wait for.

torch takes pinned memory by powers of two, so up to twice what the tensors come to.

Does not choose streams, and does not wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

_ALIGNMENT = 64  # bytes: in half of the bytes too, what kernels read at once is aligned


class Block:
    """`tensors`, as views of one piece of memory; `pin` where a device shall read that by itself."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, pin: bool) -> None:
        self._regions: dict[torch.dtype, tuple[int, int]] = {}
        starts, end = {}, 0
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values()):
            begin = end
            for name, tensor in tensors.items():
                if tensor.dtype == dtype:
                    starts[name] = end
                    end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
            self._regions[dtype] = begin, end
        self._memory = torch.empty(end, dtype=torch.uint8, pin_memory=pin and end > 0)
        self._memory.zero_()  # what lies between is converted too
        self.tensors = {name: self._view(starts[name], tensor) for name, tensor in tensors.items()}

    def _view(self, start: int, tensor: torch.Tensor) -> torch.Tensor:
        part = self._memory[start : start + tensor.nbytes]
        return part.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def image(self, device: torch.device, dtype: torch.dtype) -> Image:
        """The tensors on a device, floating ones in `dtype`. From pinned memory they are there once what the current stream
        was given so far has ended; until then the block must live."""
        memory = self._memory.to(device, non_blocking=True)
        regions = {
            kind: memory[begin:end].view(kind).to(dtype if kind.is_floating_point else kind)
            for kind, (begin, end) in self._regions.items()
        }
        return Image(self._memory, self._regions, regions)


class Image:
    """A block's tensors on a device."""

    def __init__(
        self,
        memory: torch.Tensor,
        spans: Mapping[torch.dtype, tuple[int, int]],
        regions: Mapping[torch.dtype, torch.Tensor],
    ) -> None:
        self._memory, self._spans, self._regions = memory, spans, regions

    @property
    def regions(self) -> Collection[torch.Tensor]:
        """All of them, a dtype each."""
        return self._regions.values()

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The one of the block's tensors that `tensor` is, a view of the whole; None for another."""
        if (
            tensor.untyped_storage().data_ptr() != self._memory.untyped_storage().data_ptr()
            or not tensor.numel()
        ):
            return None
        begin, end = self._spans[tensor.dtype]
        place = tensor.data_ptr() - self._memory.data_ptr()
        if not begin <= place < end or not tensor.is_contiguous():
            return None
        start = (place - begin) // tensor.itemsize
        return self._regions[tensor.dtype][start : start + tensor.numel()].view(tensor.shape)
