"""nf4 products that are differentiated: y = x W^T + b for any number of rows, and the gradient of x, W being frozen.

Few rows go by kernels that read the weights as stored: `nf4` forward, and here the product with W backward, which applies
what a block of 64 is scaled by to the rows' gradient. Many rows are bound by arithmetic: they go by the library's product
with weights that a kernel here dequantises aside, to what bitsandbytes makes of them, in one launch, scales included.

Does not differentiate the weights or the bias.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapthub.adapters.kernels import nf4
from adapthub.adapters.kernels.launching import on_its_device
from adapthub.adapters.kernels.nf4_lookup import CODE, inverse, looked_up, values
from adapthub.adapters.kernels.nf4_pairs import Matrix

# Up to which products with stored weights are taken to beat two with dequantised ones: those write and read four times the
# bytes again. Not measured.
FEW = 32
_BLOCK = tl.constexpr(64)
_BYTES = tl.constexpr(32)
_SCALES = tl.constexpr(256)
_OUTPUTS = 64  # whose weights are read at a time, backward
_PROGRAMS = 512  # that the outputs are cut for, backward
_DENSE = 16  # blocks that a program dequantises


def linear(x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """x [rows, K] to [rows, outputs], of x's dtype: bfloat16 or float16. Gradients reach x alone."""
    return cast(torch.Tensor, _Linear.apply(x, matrix))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        ctx.matrix = matrix
        return product(x, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return of_input(gradient, ctx.matrix), None


def product(x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """x [rows, K] to a new [rows, outputs], with the bias; nothing is differentiated."""
    if len(x) <= FEW:
        return nf4.multiply(x, matrix.packed, matrix.scales, matrix.outputs, matrix.bias)
    return F.linear(x, dequantised(matrix, x.shape[1], x.dtype), matrix.bias)


def of_input(gradient: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """gradient [rows, outputs] times the weights: a new [rows, K], of its dtype."""
    size = matrix.packed.numel() * 2 // matrix.outputs
    if len(gradient) <= FEW:
        return _of_few(gradient, matrix, size)
    return gradient @ dequantised(matrix, size, gradient.dtype)


def add_of_input_(of_x: torch.Tensor, gradient: torch.Tensor, matrix: Matrix) -> None:
    """Add the same to of_x [rows, K]."""
    if len(gradient) <= FEW:
        of_x += of_input(gradient, matrix)
    else:
        of_x.addmm_(gradient, dequantised(matrix, of_x.shape[1], gradient.dtype))


def dequantised(matrix: Matrix, size: int, dtype: torch.dtype) -> torch.Tensor:
    """The weights [outputs, size], each value times its scale in float32, rounded to the dtype."""
    dense = torch.empty(matrix.outputs, size, dtype=dtype, device=matrix.packed.device)
    blocks = matrix.outputs * size // 64
    with torch.cuda.device_of(dense):
        _dequantise[(triton.cdiv(blocks, _DENSE),)](
            matrix.packed,
            *_stored(matrix),
            _code(matrix.packed.device),
            dense,
            blocks,
            NESTED=matrix.scales.nested is not None,
            BLOCKS=_DENSE,
        )
    return dense


@on_its_device
def _of_few(gradient: torch.Tensor, matrix: Matrix, size: int) -> torch.Tensor:
    """`of_input` by weights as they are stored."""
    rows, outputs = gradient.shape
    gradient = gradient.contiguous()
    tiles = triton.cdiv(outputs, _OUTPUTS)
    padded = max(16, min(64, triton.next_power_of_2(rows)))
    blocks, row_tiles = size // 64, triton.cdiv(rows, padded)
    parts = max(1, min(tiles, _PROGRAMS // (blocks * row_tiles)))
    sums = gradient.new_empty(parts, rows, size, dtype=torch.float32)
    interpreted = gradient.device.type == "cpu"
    _of_input[(blocks, row_tiles, parts)](
        gradient,
        matrix.packed,
        *_stored(matrix),
        values(gradient.dtype) if interpreted else matrix.packed,
        sums,
        rows,
        outputs,
        triton.cdiv(tiles, parts),
        SIZE=size,
        NESTED=matrix.scales.nested is not None,
        INTERPRETED=interpreted,
        ROWS=padded,
        OUTPUTS=_OUTPUTS,
    )
    return sums.sum(0).to(gradient.dtype)


def _stored(matrix: Matrix) -> list[torch.Tensor]:
    absmax = matrix.scales[0]
    assert absmax is not None
    return [absmax if scale is None else scale for scale in matrix.scales]


@cache
def _code(device: torch.device) -> torch.Tensor:
    return torch.tensor(CODE, device=device)


@triton.jit
def _scale_of(absmax, nested, code, offset, at, mask, NESTED: tl.constexpr):
    """Of the blocks `at`, in float32; 0 where they are not there. As bitsandbytes adds: rounded, then the offset."""
    scale = tl.load(absmax + at, mask=mask, other=0)
    if NESTED:
        outer = tl.load(nested + at // _SCALES, mask=mask, other=0.0)
        scale = tl.load(code + scale.to(tl.int32)) * outer + tl.load(offset)
    return scale


@triton.jit(do_not_specialize=["blocks"])
def _dequantise(
    packed,
    absmax,
    nested,
    code,
    offset,
    values,
    dense,
    blocks,
    NESTED: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Some blocks: their values times their scales."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    there = block < blocks
    scale = _scale_of(absmax, nested, code, offset, block, there, NESTED)[:, None]
    byte = block[:, None] * _BYTES + tl.arange(0, _BYTES)[None, :]
    pairs = tl.load(packed + byte, mask=there[:, None], other=0)
    first = tl.load(values + (pairs >> 4).to(tl.int32)) * scale
    second = tl.load(values + (pairs & 15).to(tl.int32)) * scale
    both = tl.join(first, second).reshape(BLOCKS, _BLOCK)
    place = block[:, None] * _BLOCK + tl.arange(0, _BLOCK)[None, :]
    tl.store(dense + place, both.to(dense.dtype.element_ty), mask=there[:, None])


@triton.jit(do_not_specialize=["rows", "outputs", "tiles"])
def _of_input(
    gradient,
    packed,
    absmax,
    nested,
    code,
    offset,
    values,
    sums,
    rows,
    outputs,
    tiles,
    SIZE: tl.constexpr,
    NESTED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """One block of K of some rows: `tiles` tiles of outputs summed, the part's."""
    block = tl.program_id(0)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(2).to(tl.int64)
    even_sum = tl.zeros([ROWS, _BYTES], dtype=tl.float32)
    odd_sum = tl.zeros([ROWS, _BYTES], dtype=tl.float32)
    for tile in range(tiles):
        n = (part * tiles + tile) * OUTPUTS + tl.arange(0, OUTPUTS)
        there = n < outputs
        scale = _scale_of(absmax, nested, code, offset, n * (SIZE // _BLOCK) + block, there, NESTED)
        byte = n[:, None] * (SIZE // 2) + block * _BYTES + tl.arange(0, _BYTES)[None, :]
        pairs = tl.load(packed + byte, mask=there[:, None], other=0)
        inside = (m < rows)[:, None] & there[None, :]
        given = tl.load(gradient + m[:, None].to(tl.int64) * outputs + n[None, :], mask=inside, other=0.0)
        scaled = given.to(tl.float32) * scale[None, :]
        even, odd = looked_up(pairs, values, gradient.dtype.element_ty, INTERPRETED)
        if INTERPRETED:
            even_sum = tl.dot(scaled, even, acc=even_sum)
            odd_sum = tl.dot(scaled, odd, acc=odd_sum)
        else:
            even_sum = tl.dot(scaled.to(even.dtype), even, acc=even_sum)
            odd_sum = tl.dot(scaled.to(odd.dtype), odd, acc=odd_sum)
    whole = tl.join(even_sum, odd_sum).reshape(ROWS, _BLOCK) * inverse(gradient.dtype.element_ty)
    place = (part * rows + m[:, None]) * SIZE + block * _BLOCK + tl.arange(0, _BLOCK)[None, :]
    tl.store(sums + place, whole, mask=(m < rows)[:, None])
