"""Products with int8 weights and one scale a row, as bitsandbytes stores them: y = x W^T + b for up to some 256 rows.

Weights are read once, as they are stored, and become the activations' dtype in registers, which holds each of them exactly;
an output's sum is scaled in float32. So a product is nearer to the exact weights' than one with weights that were scaled in
the activations' dtype.

Does not round activations, differentiate, or choose between itself and bitsandbytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from adapthub.adapters.kernels.few_rows import Cut, Plan, finish, plan_for, run
from adapthub.adapters.kernels.launching import on_its_device

# Measured on an H200. Up to 16 rows K is cut alike, so that a row's result does not depend on their number.
CUTS = (
    Cut(rows=16, least=8192, outputs=32, slices=4, warps=4, stages=4, spread=0, blocks=224),
    Cut(rows=16, least=0, outputs=16, slices=8, warps=8, stages=4, spread=0, blocks=224),
    Cut(rows=32, least=0, outputs=64, slices=0, warps=4, stages=4, spread=8448, blocks=224),
    Cut(rows=64, least=0, outputs=64, slices=0, warps=4, stages=4, spread=8448, blocks=224),
    Cut(rows=128, least=0, outputs=64, slices=0, warps=4, stages=4, spread=8448, blocks=224),
)
_BLOCK = tl.constexpr(64)  # weights of a row that a warp reads at a time


@on_its_device
def multiply(
    x: torch.Tensor,
    weights: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    plan: Plan | None = None,
) -> torch.Tensor:
    """x [rows, K] and weights int8 [outputs, K] -> [rows, outputs], of x's dtype: bfloat16 or float16.

    A row of weights counts scales[row] / 127, of float32. K is a multiple of 64, bias [outputs] of x's dtype; weights and
    scales are contiguous.
    """
    outputs, size = weights.shape
    plan = plan or plan_for(CUTS, len(x), outputs, size)
    constants = {"INTERPRETED": x.device.type == "cpu"}
    return run(
        _by_slices if plan.slices else _by_outputs, x, [weights, scales], outputs, bias, plan, constants
    )


@triton.jit(do_not_specialize=["rows"])
def _by_slices(
    x,
    weights,
    scales,
    bias,
    sums,
    rows,
    outputs,
    SIZE: tl.constexpr,
    BIAS: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    STAGES: tl.constexpr,
    SLICES: tl.constexpr,
):
    """Some outputs of some rows, a slice of K a warp: block b of the part is slice b % SLICES's."""
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = tl.minimum(n, outputs - 1)  # whose weights are there to read
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    blocks: tl.constexpr = SIZE // _BLOCK // PARTS
    tl.static_assert(blocks % SLICES == 0 and SIZE // _BLOCK % PARTS == 0)
    of_slice = tl.arange(0, SLICES)
    inside = (m < rows)[None, None, :]
    total = tl.zeros([SLICES, OUTPUTS, ROWS], dtype=tl.float32)
    for step in tl.range(0, blocks // SLICES, num_stages=STAGES):
        block = tl.program_id(2) * blocks + step * SLICES + of_slice
        k = block[:, None] * _BLOCK + tl.arange(0, _BLOCK)[None, :]
        matrix = tl.load(weights + known[None, :, None] * SIZE + k[:, None, :])
        activations = tl.load(x + m[None, None, :] * SIZE + k[:, :, None], mask=inside, other=0.0)
        if INTERPRETED:
            activations = activations.to(tl.float32)
        total = tl.dot(matrix.to(activations.dtype), activations, acc=total)
    _scaled(tl.sum(total, axis=0), scales, bias, sums, m, n, rows, outputs, BIAS, PARTS)


@triton.jit(do_not_specialize=["rows"])
def _by_outputs(
    x,
    weights,
    scales,
    bias,
    sums,
    rows,
    outputs,
    SIZE: tl.constexpr,
    BIAS: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Some outputs of some rows, all of the part's K by every warp."""
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = tl.minimum(n, outputs - 1)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    blocks: tl.constexpr = SIZE // _BLOCK // PARTS
    total = tl.zeros([OUTPUTS, ROWS], dtype=tl.float32)
    for step in tl.range(0, blocks, num_stages=STAGES):
        k = (tl.program_id(2) * blocks + step) * _BLOCK + tl.arange(0, _BLOCK)
        matrix = tl.load(weights + known[:, None] * SIZE + k[None, :])
        activations = tl.load(x + m[None, :] * SIZE + k[:, None], mask=(m < rows)[None, :], other=0.0)
        if INTERPRETED:
            activations = activations.to(tl.float32)
        total = tl.dot(matrix.to(activations.dtype), activations, acc=total)
    _scaled(total, scales, bias, sums, m, n, rows, outputs, BIAS, PARTS)


@triton.jit
def _scaled(total, scales, bias, sums, m, n, rows, outputs, BIAS: tl.constexpr, PARTS: tl.constexpr):
    scale = tl.load(scales + n, mask=n < outputs, other=0.0) * (1 / 127)
    finish(total * scale[:, None], bias, sums, m, n, rows, outputs, BIAS, PARTS)
