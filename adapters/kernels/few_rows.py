"""What products of few rows with stored weights have in common: how they are cut among programs and warps, and how the
sums of those become outputs.

Adds in an order that the cut alone decides. Does not know how weights are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


class Plan(NamedTuple):
    """How a product is cut: a program of `warps` makes `outputs` of `rows`, `stages` loads ahead.

    With `slices`, as many blocks of K go into a step, each a warp's, and the warps' sums are added. With none, the warps
    share the outputs. Programs of their own sum each of `parts` of K.
    """

    rows: int
    outputs: int
    slices: int
    warps: int
    parts: int
    stages: int


class Cut(NamedTuple):
    """The plan of products of up to `rows` rows by `least` outputs or more, as measured.

    K falls into parts until there are `spread` outputs, counting each part's, and a part has at most `blocks` of 64.
    """

    rows: int
    least: int
    outputs: int
    slices: int
    warps: int
    stages: int
    spread: int
    blocks: int


@cache
def plan_for(cuts: tuple[Cut, ...], rows: int, outputs: int, size: int) -> Plan:
    """By the first of `cuts` that fits, or the last. Fewer slices and warps where its own do not divide K."""
    cut = next((cut for cut in cuts if rows <= cut.rows and outputs >= cut.least), cuts[-1])
    blocks, parts = size // 64, 1
    while (
        parts < _MOST_PARTS
        and blocks % (2 * parts * max(cut.slices, 1)) == 0
        and (outputs * parts < cut.spread or blocks // parts > cut.blocks)
    ):
        parts *= 2
    slices = min(cut.slices, blocks & -blocks)
    padded = 8 if rows <= 8 else min(cut.rows, 128)
    return Plan(padded, cut.outputs, slices, min(cut.warps, slices or cut.warps), parts, cut.stages)


def run(
    kernel: Any,
    x: torch.Tensor,
    stored: Sequence[torch.Tensor],
    outputs: int,
    bias: torch.Tensor | None,
    plan: Plan,
    constants: dict[str, Any],
) -> torch.Tensor:
    """x [rows, K] to [rows, outputs] of its dtype, by a kernel that takes x, what is stored, and what follows below."""
    rows, size = x.shape
    if not x.is_contiguous() or x.data_ptr() % 16:
        x = x.clone(memory_format=torch.contiguous_format)
    y = x.new_empty(rows, outputs)
    sums = y if plan.parts == 1 else x.new_empty(plan.parts, rows, outputs, dtype=torch.float32)
    bias_or_any = y if bias is None else bias
    kernel[(triton.cdiv(outputs, plan.outputs), triton.cdiv(rows, plan.rows), plan.parts)](
        x,
        *stored,
        bias_or_any,
        sums,
        rows,
        outputs,
        SIZE=size,
        BIAS=bias is not None,
        ROWS=plan.rows,
        OUTPUTS=plan.outputs,
        PARTS=plan.parts,
        STAGES=plan.stages,
        num_warps=plan.warps,
        num_stages=plan.stages,
        **({"SLICES": plan.slices} if plan.slices else {}),
        **constants,
    )
    if plan.parts > 1:
        _sum[(triton.cdiv(outputs, _SUMMED), rows)](
            sums, bias_or_any, y, rows, outputs, BIAS=bias is not None, PARTS=plan.parts, OUTPUTS=_SUMMED
        )
    return y


_MOST_PARTS = 8
_SUMMED = 512  # outputs of a row that a program of `_sum` makes


@triton.jit
def finish(total, bias, sums, m, n, rows, outputs, BIAS: tl.constexpr, PARTS: tl.constexpr):
    """Store sums [outputs, rows]: a part's, or the product."""
    inside = (m < rows)[None, :] & (n < outputs)[:, None]
    if PARTS == 1:
        if BIAS:
            total += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[:, None]
    else:
        sums += tl.program_id(2).to(tl.int64) * rows * outputs
    tl.store(sums + m[None, :] * outputs + n[:, None], total.to(sums.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _sum(sums, bias, y, rows, outputs, BIAS: tl.constexpr, PARTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """Some outputs of one row: the parts' sums in their order."""
    m = tl.program_id(1)
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = n < outputs
    total = tl.zeros([OUTPUTS], dtype=tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(sums + (part * rows + m) * outputs + n, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + m * outputs + n, total.to(y.dtype.element_ty), mask=inside)
