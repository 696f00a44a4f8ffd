"""A frozen linear layer and what LoRAs add to runs of its rows, as one differentiated function: y = f(x) + s x a^T b^T.

So what LoRAs add goes into the product's own output, and backward into the gradient of the input: apart, autograd and PEFT's
layers read and write all outputs several times more. One adapter of all rows is torch's products; several, each with rows of
its own, are `low_rank_runs`' kernels, all of them a launch a half. Adapters multiply in x's dtype, whatever theirs is, and
their gradients are of their own. Layers that read the same input, with an adapter each, are one function too: their first
halves are one product, and the gradient of their input is summed where it is made.

Does not differentiate the frozen layer's parameters, and is not differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapthub.adapters.kernels import low_rank_runs, nf4_training
from adapthub.adapters.kernels.low_rank import RANK, A, B
from adapthub.adapters.kernels.nf4_pairs import Matrix
from adapthub.adapters.token_runs import runs_of, tile_for

_LEAST_TILE = 16
_ALIGNED = 8  # elements: where a matrix begins among others


class Frozen(Protocol):
    """A linear layer whose parameters are not trained. Both results are new, and may be written to."""

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x [rows, in] to [rows, outputs]."""

    def of_input(self, gradient: torch.Tensor) -> torch.Tensor:
        """gradient [rows, outputs] times the weights: [rows, in]."""

    def add_of_input_(self, of_x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the same to of_x."""


class Dense(NamedTuple):
    """Weights [outputs, in] of the activations' dtype, as they are."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def of_input(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient @ self.weight

    def add_of_input_(self, of_x: torch.Tensor, gradient: torch.Tensor) -> None:
        of_x.addmm_(gradient, self.weight)


class Nf4(NamedTuple):
    """As `nf4_training` multiplies."""

    matrix: Matrix

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        return nf4_training.product(x, self.matrix)

    def of_input(self, gradient: torch.Tensor) -> torch.Tensor:
        return nf4_training.of_input(gradient, self.matrix)

    def add_of_input_(self, of_x: torch.Tensor, gradient: torch.Tensor) -> None:
        nf4_training.add_of_input_(of_x, gradient, self.matrix)


class Lora(NamedTuple):
    """a [r, in] and b [out, r], contiguous, and what their product is multiplied by."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def linear(
    x: torch.Tensor, frozen: Frozen, adapters: Sequence[Lora], counts: Sequence[int] | None = None
) -> torch.Tensor:
    """x [rows, in] to [rows, outputs]; gradients reach x, and every a and b.

    The first `counts[0]` rows are the first adapter's, the next `counts[1]` the second's and so on; rows behind have none.
    Without `counts` all are the one adapter's. All adapters' matrices are of one dtype.
    """
    if counts is None or tuple(counts) == (len(x),):
        return linears(x, [(frozen, adapters[0])])[0]
    scales = tuple(adapter.scale for adapter in adapters)
    matrices = [adapter.a for adapter in adapters] + [adapter.b for adapter in adapters]
    return cast(torch.Tensor, _ByRuns.apply(x, frozen, scales, tuple(counts), *matrices))


def linears(x: torch.Tensor, layers: Sequence[tuple[Frozen, Lora]]) -> tuple[torch.Tensor, ...]:
    """x [rows, in] to [rows, outputs] of each layer with its adapter; gradients reach x, and every a and b.

    All adapters' matrices are of one dtype.
    """
    matrices = [adapter.a for _, adapter in layers] + [adapter.b for _, adapter in layers]
    frozen = tuple(layer for layer, _ in layers)
    scales = tuple(adapter.scale for _, adapter in layers)
    return cast(tuple[torch.Tensor, ...], _Whole.apply(x, frozen, scales, *matrices))


class _Whole(torch.autograd.Function):
    """Layers of one input, with one adapter each of all rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: tuple[Frozen, ...],
        scales: tuple[float, ...],
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.frozen, ctx.scales = frozen, scales
        half = len(frozen)
        with torch.autocast(x.device.type, enabled=False):
            low = x @ _stacked(matrices[:half], x.dtype).T
            outputs = tuple(layer.multiply(x) for layer in frozen)
            for y, b, scale, part in zip(
                outputs, matrices[half:], scales, _parts(low, matrices), strict=True
            ):
                y.addmm_(part, b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x, low, *matrices)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, low, *matrices = ctx.saved_tensors
        half = len(ctx.frozen)
        of_x, of_b = None, []
        with torch.autocast(x.device.type, enabled=False):
            back = torch.empty_like(low)
            for gradient, b, scale, part, of_low in zip(
                gradients,
                matrices[half:],
                ctx.scales,
                _parts(back, matrices),
                _parts(low, matrices),
                strict=True,
            ):
                part.addmm_(gradient, b.to(x.dtype), beta=0, alpha=scale)
                made = x.new_empty(b.shape).addmm_(gradient.T, of_low, beta=0, alpha=scale)
                of_b.append(made.to(b.dtype))
            if ctx.needs_input_grad[0]:
                first, *others = zip(ctx.frozen, gradients, strict=True)
                of_x = first[0].of_input(first[1])
                for layer, gradient in others:
                    layer.add_of_input_(of_x, gradient)
                of_x.addmm_(back, _stacked(matrices[:half], x.dtype))
            of_a = (back.T @ x).to(matrices[0].dtype).split([len(a) for a in matrices[:half]])
        return of_x, None, None, *of_a, *of_b


def _stacked(matrices: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """[r, in] each to one [sum of r, in]."""
    return (matrices[0] if len(matrices) == 1 else torch.cat([*matrices])).to(dtype)


def _parts(low: torch.Tensor, matrices: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Views [rows, r] of low [rows, sum of r], by adapter."""
    return torch.split(low, [len(a) for a in matrices[: len(matrices) // 2]], dim=1)


class _ByRuns(torch.autograd.Function):
    """One layer, and an adapter of each run of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: Frozen,
        scales: tuple[float, ...],
        counts: tuple[int, ...],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        ctx.frozen, ctx.scales, ctx.counts = frozen, scales, counts
        with torch.autocast(x.device.type, enabled=False):
            x = x.contiguous()
            y = frozen.multiply(x)
            told = _Told(x, scales, counts, matrices)
            low = low_rank_runs.shrink(x, told.table, told.factors, told.runs, [0], told.most, told.tile)
            low_rank_runs.expand_([y], low, told.table, told.factors, told.runs, [0], told.tile)
        ctx.save_for_backward(x, low, *matrices)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, low, *matrices = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            of_x = ctx.frozen.of_input(gradient) if ctx.needs_input_grad[0] else None
            found = _of_matrices(gradient.contiguous(), x, low, matrices, ctx.scales, ctx.counts, of_x)
        return of_x, None, None, None, *found


def _of_matrices(
    gradient: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    matrices: Sequence[torch.Tensor],
    scales: tuple[float, ...],
    counts: tuple[int, ...],
    of_x: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Gradients of each a, then of each b; adds what passes through them to the gradient of x, if that is asked for."""
    told = _Told(x, scales, counts, matrices, backward=True)
    entries = told.table, told.factors, told.runs
    back = low_rank_runs.shrink(gradient, *entries, [0], told.most, told.tile, backward=True)
    if of_x is not None:
        low_rank_runs.expand_([of_x], back, *entries, [0], told.tile, backward=True)
    found: list[torch.Tensor] = []
    half = len(matrices) // 2
    for narrow, wide, of in ((back, x, matrices[:half]), (low, gradient, matrices[half:])):
        starts = _starts([matrix.numel() for matrix in of])
        flat = of[0].new_empty(starts[-1])
        low_rank_runs.gradients(
            narrow[0, :, 0],
            wide,
            told.segments,
            _ints(tuple(starts[:-1]), x.device),
            flat,
            of_b=wide is gradient,
        )
        found += [
            flat[start : start + matrix.numel()].view_as(matrix)
            for start, matrix in zip(starts, of, strict=False)
        ]
    return found


class _Told:
    """Several adapters as kernels are told of them: copies in x's dtype, side by side, and where each begins.

    Backward the b come first, since a product with them does.
    """

    def __init__(
        self,
        x: torch.Tensor,
        scales: tuple[float, ...],
        counts: tuple[int, ...],
        matrices: Sequence[torch.Tensor],
        *,
        backward: bool = False,
    ) -> None:
        device, half = x.device, len(matrices) // 2
        halves = matrices[:half], matrices[half:]
        ranks = tuple(len(a) for a in halves[0])
        self.tile = tile_for(len(x)) or _LEAST_TILE
        self.most = max(ranks)
        self.runs, self.segments = _rows(counts, ranks, self.tile, device)
        self.factors = _factors(scales, device)
        self._copies = [_side_by_side(of, x.dtype) for of in halves]  # addresses keep nothing alive
        starts = [[x.itemsize * at for at in _starts([each.numel() for each in of])[:-1]] for of in halves]
        self.table = _offsets(tuple(map(tuple, starts)), ranks, backward, device).clone()
        for column, copy in zip((B, A) if backward else (A, B), self._copies, strict=True):
            self.table[..., column] += copy.data_ptr()


def _side_by_side(matrices: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    pieces = []
    for matrix in matrices:
        pieces.append(matrix.reshape(-1))
        if lacking := -matrix.numel() % _ALIGNED:
            pieces.append(matrix.new_zeros(lacking))
    return torch.cat(pieces).to(dtype)


def _starts(counts: Sequence[int]) -> list[int]:
    """Where each begins among those side by side, and where all end."""
    return [*accumulate((count + -count % _ALIGNED for count in counts), initial=0)]


# What they are told of the same batch and the same adapters, a layer after the other: made once.
@lru_cache(maxsize=64)
def _rows(
    counts: tuple[int, ...], ranks: tuple[int, ...], tile: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    runs = runs_of([place + 1 for place in range(len(counts))], counts, tile)
    firsts = [*accumulate(counts, initial=0)][:-1]
    return torch.from_numpy(runs).to(device), torch.tensor([firsts, counts, ranks], device=device)


@lru_cache(maxsize=64)
def _factors(scales: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor([(scale, 1.0) for scale in scales], device=device)[:, None, None]


@lru_cache(maxsize=64)
def _offsets(
    starts: tuple[tuple[int, ...], ...], ranks: tuple[int, ...], backward: bool, device: torch.device
) -> torch.Tensor:
    """Entries [adapters, 1, 1, 6] of matrices whose copies begin at address 0."""
    table = torch.zeros(len(ranks), 1, 1, 6, dtype=torch.int64)
    for column, of in zip((B, A) if backward else (A, B), starts, strict=True):
        table[:, 0, 0, column] = torch.tensor(of)
    table[:, 0, 0, RANK] = torch.tensor(ranks)
    return table.to(device)


@lru_cache(maxsize=64)
def _ints(values: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device)
