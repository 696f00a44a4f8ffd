"""Products with nf4 weights as bitsandbytes stores them, dequantised in registers: y = x W^T + b for up to some 256 rows.

At few rows a product costs the bytes of its weights, and these are read once, as they are stored. A weight is looked up
among the code's 16 values times a constant, rounded to the activations' dtype: the constant that rounding hurts least. What
a block of 64 is scaled by is applied to its sums, in float32. So a product is nearer to the exact weights' than one with
weights that were dequantised to the activations' dtype.

A row's result does not depend on what the other rows hold. Nor does it on their number while the plan cuts K alike.

Does not quantise, differentiate, or choose between itself and bitsandbytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from adapthub.adapters.kernels.few_rows import Cut, Plan, finish, plan_for, run
from adapthub.adapters.kernels.launching import on_its_device
from adapthub.adapters.kernels.nf4_lookup import inverse, looked_up, values

BLOCK = tl.constexpr(64)  # weights with a scale of their own, one behind the other in a row
_BYTES = tl.constexpr(32)  # that hold them
_SCALES = tl.constexpr(256)  # scales with a scale of their own


# By what an H200 measured. Up to 16 rows K is cut alike, so that a row's result does not depend on their number.
CUTS = (
    Cut(rows=8, least=8192, outputs=32, slices=4, warps=4, stages=4, spread=0, blocks=112),
    Cut(rows=16, least=8192, outputs=32, slices=4, warps=4, stages=4, spread=0, blocks=112),
    Cut(rows=8, least=0, outputs=32, slices=16, warps=4, stages=2, spread=4096, blocks=56),
    Cut(rows=16, least=0, outputs=32, slices=16, warps=4, stages=2, spread=4096, blocks=56),
    Cut(rows=32, least=0, outputs=64, slices=0, warps=4, stages=3, spread=8192, blocks=28),
    Cut(rows=64, least=0, outputs=64, slices=0, warps=4, stages=3, spread=8192, blocks=28),
    Cut(rows=128, least=0, outputs=64, slices=0, warps=4, stages=3, spread=16384, blocks=112),
)


class Scales(NamedTuple):
    """What blocks of 64 weights are multiplied by: absmax float32 [outputs K / 64].

    Or these, quantised in blocks of 256: code[absmax] * nested + offset, where absmax is uint8 and the others float32:
    [256], [outputs K / 64 / 256, rounded up] and [].
    """

    absmax: torch.Tensor
    nested: torch.Tensor | None = None
    code: torch.Tensor | None = None
    offset: torch.Tensor | None = None


@on_its_device
def multiply(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: Scales,
    outputs: int,
    bias: torch.Tensor | None = None,
    plan: Plan | None = None,
) -> torch.Tensor:
    """x [rows, K] and packed uint8 of outputs K / 2 bytes -> [rows, outputs], of x's dtype: bfloat16 or float16.

    K is a multiple of 64, bias [outputs] of x's dtype; weights and scales are contiguous.
    """
    plan = plan or plan_for(CUTS, len(x), outputs, x.shape[1])
    # What is not there is not read: any pointer will do for it.
    stored = [packed, *(scales.absmax if scale is None else scale for scale in scales)]
    interpreted = x.device.type == "cpu"
    stored.append(values(x.dtype) if interpreted else packed)
    constants: dict[str, Any] = {"NESTED": scales.nested is not None, "INTERPRETED": interpreted}
    if plan.slices:
        constants["WARPS"] = plan.warps
    return run(_by_slices if plan.slices else _by_outputs, x, stored, outputs, bias, plan, constants)


@triton.jit(do_not_specialize=["rows"])
def _by_slices(
    x,
    packed,
    absmax,
    nested,
    code,
    offset,
    values,
    bias,
    sums,
    rows,
    outputs,
    SIZE: tl.constexpr,
    NESTED: tl.constexpr,
    BIAS: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    STAGES: tl.constexpr,
    SLICES: tl.constexpr,
    WARPS: tl.constexpr,
):
    """Some outputs of some rows, `SLICES` blocks of K a step: block b of the part is warp b % WARPS's.

    Weights and activations are loaded `STAGES` steps ahead. Scales come a step ahead, in registers: what they take is
    asked for before the step's weights are looked up, and used after.
    """
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = tl.minimum(n, outputs - 1)  # whose weights are there to read
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    blocks: tl.constexpr = SIZE // BLOCK // PARTS
    tl.static_assert(blocks % SLICES == 0 and SIZE // BLOCK % PARTS == 0)
    start = tl.program_id(2) * blocks
    of_step = tl.arange(0, SLICES)
    inside = (m < rows)[None, None, :]
    at = known * (SIZE // BLOCK) + start
    stored = tl.load(absmax + at[:, None] + of_step[None, :])
    shift = tl.load(offset) if NESTED else 0.0
    total = tl.zeros([WARPS, OUTPUTS, ROWS], dtype=tl.float32)
    for first in tl.range(
        0, blocks, SLICES
    ):  # stages as launched: with some of its own, it would load scales by them
        if NESTED:
            # One for the row's whole step, since steps begin at multiples of SLICES in a row, and rows do.
            outer = tl.load(nested + (at + first) // _SCALES)
            scale = tl.load(code + stored.to(tl.int32)) * outer[:, None] + shift
        else:
            scale = stored
        following = tl.minimum(first + SLICES, blocks - SLICES)
        stored = tl.load(absmax + (at + following)[:, None] + of_step[None, :])
        line = (start + first) * _BYTES + tl.arange(0, SLICES * _BYTES)
        pairs = tl.load(packed + known[:, None] * (SIZE // 2) + line[None, :])
        pairs = pairs.reshape(OUTPUTS, SLICES, _BYTES).permute(1, 0, 2)
        byte = (start + first + of_step)[:, None] * _BYTES + tl.arange(0, _BYTES)[None, :]
        even_x, odd_x = _even_and_odd(x, m[None, None, :] * SIZE, byte[:, :, None], inside, INTERPRETED)
        even, odd = looked_up(pairs, values, x.dtype.element_ty, INTERPRETED)
        product = tl.dot(odd, odd_x, acc=tl.dot(even, even_x)) * scale.trans()[:, :, None]
        total += tl.sum(product.reshape(SLICES // WARPS, WARPS, OUTPUTS, ROWS), axis=0)
    total = tl.sum(total, axis=0) * inverse(x.dtype.element_ty)
    finish(total, bias, sums, m, n, rows, outputs, BIAS, PARTS)


@triton.jit(do_not_specialize=["rows"])
def _by_outputs(
    x,
    packed,
    absmax,
    nested,
    code,
    offset,
    values,
    bias,
    sums,
    rows,
    outputs,
    SIZE: tl.constexpr,
    NESTED: tl.constexpr,
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
    blocks: tl.constexpr = SIZE // BLOCK // PARTS
    total = tl.zeros([OUTPUTS, ROWS], dtype=tl.float32)
    for step in tl.range(0, blocks, num_stages=STAGES):
        block = tl.program_id(2) * blocks + step
        byte = block * _BYTES + tl.arange(0, _BYTES)
        pairs = tl.load(packed + known[:, None] * (SIZE // 2) + byte[None, :])
        scale = _scales(absmax, nested, code, offset, known * (SIZE // BLOCK) + block, NESTED)
        k = block * BLOCK + tl.arange(0, BLOCK)
        activations = tl.load(x + m[None, :] * SIZE + k[:, None], mask=(m < rows)[None, :], other=0.0)
        if INTERPRETED:
            activations = activations.to(tl.float32)
        even, odd = looked_up(pairs, values, x.dtype.element_ty, INTERPRETED)
        weights = tl.join(even, odd).reshape(OUTPUTS, BLOCK)
        total += tl.dot(weights, activations) * scale[:, None]
    finish(total * inverse(x.dtype.element_ty), bias, sums, m, n, rows, outputs, BIAS, PARTS)


@triton.jit
def _scales(absmax, nested, code, offset, at, NESTED: tl.constexpr):
    """Of the blocks `at`, in float32."""
    scale = tl.load(absmax + at)
    if NESTED:
        scale = tl.load(code + scale.to(tl.int32)) * tl.load(nested + at // _SCALES) + tl.load(offset)
    return scale


@triton.jit
def _even_and_odd(x, row, byte, mask, INTERPRETED: tl.constexpr):
    """The activations that meet the first and the second weight of each byte."""
    if INTERPRETED:
        even = tl.load(x + row + 2 * byte, mask=mask, other=0.0).to(tl.float32)
        odd = tl.load(x + row + 2 * byte + 1, mask=mask, other=0.0).to(tl.float32)
    else:
        both = tl.load(x.to(tl.pointer_type(tl.int32)) + row // 2 + byte, mask=mask, other=0)
        even = (both & 0xFFFF).to(tl.int16).to(x.dtype.element_ty, bitcast=True)
        odd = (both >> 16).to(tl.int16).to(x.dtype.element_ty, bitcast=True)
    return even, odd
