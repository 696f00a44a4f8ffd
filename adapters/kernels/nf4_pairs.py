"""Products of few rows with nf4 weights, several matrices a launch, whose bytes are looked up whole in shared memory.

A byte is two weights, and one of 256 words of two values each; a program keeps these words 32 times, so that a warp's
lanes each read from a bank of their own: a weight takes 1.5 instructions in place of 2.6 in registers (`nf4_lookup`),
half a shared load among them. What that costs is 32 KiB a program and a moment at its begin, in which its first weights
are on their way already: they are asked for before anything else, and before an earlier kernel is waited for where one
follows another so (programmatic dependent launch).

The sum is `nf4`'s: values times a constant, rounded to the activations' dtype, blocks of 64 scaled in float32. Rows do not
depend on each other, nor on their number up to 16.

Reads matrices where bitsandbytes keeps them. Does not choose between itself and `nf4`: `nf4_choice` does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from adapthub.adapters.kernels.launching import on_its_device
from adapthub.adapters.kernels.nf4 import Scales
from adapthub.adapters.kernels.nf4_lookup import inverse, values

MOST = 3  # matrices a launch
_BLOCK = tl.constexpr(64)
_BYTES = tl.constexpr(32)
_SCALES = tl.constexpr(256)
_DYNAMIC_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_LINE = tl.constexpr(128)  # bytes that are asked for ahead at a time


class PairsPlan(NamedTuple):
    """How products are cut: a program makes `outputs` of `rows` by steps of `slices` blocks of K, which its `warps` share.

    `stages` steps are loaded ahead, and `ahead` bytes of each matrix row asked of memory at once. With `follows`, the kernel
    starts while the one before it ends, and waits for it before it reads activations.
    """

    rows: int
    outputs: int
    slices: int
    warps: int
    stages: int
    ahead: int
    follows: bool = False


class Matrix(NamedTuple):
    """One matrix [outputs, K] as stored: `packed` uint8 of outputs K / 2 bytes, and scales, which are
    quantised for all matrices of a launch or for none; bias [outputs] of the activations' dtype."""

    packed: torch.Tensor
    scales: Scales
    outputs: int
    bias: torch.Tensor | None = None


@on_its_device
def multiply(x: torch.Tensor, matrices: Sequence[Matrix], plan: PairsPlan) -> list[torch.Tensor]:
    """x [rows, K] times each matrix, of one K that is a multiple of 64: [rows, outputs] each, contiguous, of x's dtype."""
    rows, size = x.shape
    if not x.is_contiguous() or x.data_ptr() % 16:
        x = x.clone(memory_format=torch.contiguous_format)
    flat = x.new_empty(rows * sum(matrix.outputs for matrix in matrices))
    stored: list[torch.Tensor] = []
    for matrix in [*matrices, *[matrices[-1]] * (MOST - len(matrices))]:
        absmax = matrix.scales.absmax
        stored += [matrix.packed, *(absmax if scale is None else scale for scale in matrix.scales)]
        stored.append(flat if matrix.bias is None else matrix.bias)
    outputs = [matrix.outputs for matrix in matrices] + [0] * (MOST - len(matrices))
    interpreted = x.device.type == "cpu"
    tiles = sum(triton.cdiv(count, plan.outputs) for count in outputs)
    launched = {} if interpreted else {"launch_pdl": plan.follows}
    launch = partial(
        _by_pairs[(tiles, triton.cdiv(rows, plan.rows))],
        x,
        *stored,
        values(x.dtype) if interpreted else _pairs(x.dtype, x.device),
        flat,
        rows,
        *outputs,
        SIZE=size,
        NESTED=matrices[0].scales.nested is not None,
        BIASES=sum((matrix.bias is not None) << place for place, matrix in enumerate(matrices)),
        MATRICES=len(matrices),
        INTERPRETED=interpreted,
        ROWS=plan.rows,
        OUTPUTS=plan.outputs,
        SLICES=plan.slices,
        WARPS=plan.warps,
        AHEAD=plan.ahead,
        FOLLOWS=plan.follows and not interpreted,
        num_warps=plan.warps,
        num_stages=plan.stages,
        **launched,
    )
    try:
        launch()
    except RuntimeError as error:
        if interpreted or "invalid argument" not in str(error):
            raise
        _allow_shared_memory(x.device)
        launch()
    results, start = [], 0
    for matrix in matrices:
        stop = start + rows * matrix.outputs
        results.append(flat[start:stop].view(rows, matrix.outputs))
        start = stop
    return results


def _allow_shared_memory(device: torch.device) -> None:
    """Let compiled kernels have more than 48 KiB of shared memory with the table: a driver has to be asked, and Triton asks
    where what it knows of is more. Raises RuntimeError."""
    driver = ctypes.CDLL("libcuda.so.1")
    for kernel in _by_pairs.device_caches[device.index][0].values():
        status = driver.cuFuncSetAttribute(
            ctypes.c_void_p(kernel.function), _DYNAMIC_SHARED_MEMORY, ctypes.c_int(kernel.metadata.shared)
        )
        if status:
            raise RuntimeError(
                f"the driver gives a kernel no {kernel.metadata.shared} bytes of shared memory: {status}"
            )


@cache
def _pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The values of every byte, its upper half's in the lower 16 bits: int32 [256]."""
    return words(dtype).to(device)


def words(dtype: torch.dtype) -> torch.Tensor:
    """As `_pairs`, on the CPU."""
    bits = values(dtype).to(dtype).view(torch.int16).to(torch.int32) & 0xFFFF
    byte = torch.arange(256)
    return bits[byte >> 4] | bits[byte & 15] << 16


# Static shared memory: Triton's own is what it asks of the driver at launch, and knows nothing of this. Declared by the
# function's body, not a block within it, so that what follows can name it.
DECLARED = tl.constexpr(".shared .align 128 .b8 adapthub_pairs[32768];\n        mov.u32 $0, adapthub_pairs;")
_WRITTEN = tl.constexpr(
    "{ .reg .b32 a; mov.u32 a, adapthub_pairs; add.u32 a, a, $1; st.shared.v4.b32 [a], {$2, $2, $2, $2}; mov.u32 $0, 0; }"
)


def _assembly() -> str:
    """PTX: four bytes in $4 to the values of the first two in $0 and $1 and of the others in $2 and $3, each byte's in one
    register. Byte b's word for lane i is 128 b + 4 i bytes behind the first."""
    lines = ["{ .reg .b32 lane, byte, at;", "mov.u32 lane, %laneid;", "shl.b32 lane, lane, 2;"]
    lines += ["mov.u32 at, adapthub_pairs;", "add.u32 lane, lane, at;"]
    for place in range(4):
        lines += [
            f"prmt.b32 byte, $4, 0, 0x444{place};",
            "mad.lo.u32 at, byte, 128, lane;",
            f"ld.shared.b32 ${place}, [at];",
        ]
    return "\n        ".join([*lines, "}"])


ASSEMBLY = tl.constexpr(_assembly())
_OPERANDS = tl.constexpr("=&r,=&r,=&r,=&r,r")
_AHEAD = tl.constexpr("prefetch.global.L2 [$1]; mov.u32 $0, 0;")


@triton.jit
def _looked_up(packed, dtype: tl.constexpr):
    """Bytes [..., n] to values [..., n] twice: of the first two and of the last two of each four bytes, in their order.

    Four bytes that follow each other in the last dimension lie in one register: so do products' operands.
    """
    if dtype == tl.bfloat16:
        low, high = tl.inline_asm_elementwise(
            ASSEMBLY, _OPERANDS, [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        low, high = tl.inline_asm_elementwise(
            ASSEMBLY, _OPERANDS, [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    return low, high


@triton.jit
def _make_table(pairs):
    """Write the words, once a program, for all lanes."""
    tl.inline_asm_elementwise(DECLARED, "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    byte = tl.arange(0, 256)
    word = tl.load(pairs + byte)[:, None] + tl.zeros([1, 8], tl.int32)
    place = byte[:, None] * 128 + tl.arange(0, 8)[None, :] * 16
    tl.inline_asm_elementwise(_WRITTEN, "=r,r,r", [place, word], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit(do_not_specialize=["rows", "outputs0", "outputs1", "outputs2"])
def _by_pairs(
    x,
    packed0,
    absmax0,
    nested0,
    code0,
    offset0,
    bias0,
    packed1,
    absmax1,
    nested1,
    code1,
    offset1,
    bias1,
    packed2,
    absmax2,
    nested2,
    code2,
    offset2,
    bias2,
    pairs,
    y,
    rows,
    outputs0,
    outputs1,
    outputs2,
    SIZE: tl.constexpr,
    NESTED: tl.constexpr,
    BIASES: tl.constexpr,
    MATRICES: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SLICES: tl.constexpr,
    WARPS: tl.constexpr,
    AHEAD: tl.constexpr,
    FOLLOWS: tl.constexpr,
):
    """Some outputs of some rows of one matrix; block b of K is warp b % WARPS's. Blocks beyond K count nothing."""
    first_of = packed0, absmax0, nested0, code0, offset0, bias0
    second_of = packed1, absmax1, nested1, code1, offset1, bias1
    third_of = packed2, absmax2, nested2, code2, offset2, bias2
    tile = tl.program_id(0)
    outputs, biased, stored_as = outputs0, BIASES & 1, first_of
    if MATRICES > 1:
        before = tl.cdiv(outputs0, OUTPUTS)
        later = tile >= before
        tile = tl.where(later, tile - before, tile)
        y += tl.where(later, rows.to(tl.int64) * outputs0, 0)
        outputs, biased = tl.where(later, outputs1, outputs), tl.where(later, BIASES >> 1 & 1, biased)
        stored_as = _either(later, second_of, stored_as)
    if MATRICES > 2:
        before = tl.cdiv(outputs1, OUTPUTS)
        last = later & (tile >= before)
        tile = tl.where(last, tile - before, tile)
        y += tl.where(last, rows.to(tl.int64) * outputs1, 0)
        outputs, biased = tl.where(last, outputs2, outputs), tl.where(last, BIASES >> 2 & 1, biased)
        stored_as = _either(last, third_of, stored_as)
    packed, absmax, nested, code, offset, bias = stored_as
    n = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if not INTERPRETED:
        _begin(packed, tl.minimum(n, outputs - 1), pairs, SIZE, AHEAD, FOLLOWS)
    result = _sums(
        x,
        packed,
        (absmax, nested, code, offset),
        pairs,
        m,
        tl.minimum(n, outputs - 1),  # whose weights are there to read
        rows,
        SIZE,
        NESTED,
        INTERPRETED,
        ROWS,
        OUTPUTS,
        SLICES,
        WARPS,
    )
    if FOLLOWS:
        gdc_launch_dependents()
    if BIASES:
        result += tl.load(bias + n, mask=n < outputs * biased, other=0.0).to(tl.float32)[:, None]
    whole = (m < rows)[None, :] & (n < outputs)[:, None]
    tl.store(y + m[None, :] * outputs + n[:, None], result.to(y.dtype.element_ty), mask=whole)


@triton.jit
def _either(chosen, of, otherwise):
    """What a matrix is stored as: `of` where it is chosen."""
    packed, absmax, nested, code, offset, bias = of
    packed_, absmax_, nested_, code_, offset_, bias_ = otherwise
    return (
        tl.where(chosen, packed, packed_),
        tl.where(chosen, absmax, absmax_),
        tl.where(chosen, nested, nested_),
        tl.where(chosen, code, code_),
        tl.where(chosen, offset, offset_),
        tl.where(chosen, bias, bias_),
    )


@triton.jit
def _begin(packed, known, pairs, SIZE: tl.constexpr, AHEAD: tl.constexpr, FOLLOWS: tl.constexpr):
    """Ask for weights ahead, make the table, and wait for the kernel that this one follows."""
    if AHEAD > 0:
        ahead: tl.constexpr = min(AHEAD, SIZE // 2)
        lines = tl.arange(0, triton.next_power_of_2((ahead + _LINE - 1) // _LINE)) * _LINE
        reached = tl.minimum(lines, SIZE // 2 - 1)
        address = (packed + known[:, None] * (SIZE // 2) + reached[None, :]).to(tl.int64)
        tl.inline_asm_elementwise(_AHEAD, "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1)
    _make_table(pairs)
    if FOLLOWS:
        gdc_wait()
    tl.debug_barrier()


@triton.jit
def _sums(
    x,
    packed,
    scales,
    pairs,
    m,
    known,
    rows,
    SIZE: tl.constexpr,
    NESTED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SLICES: tl.constexpr,
    WARPS: tl.constexpr,
):
    """The products of rows `m` and outputs `known`: float32 [OUTPUTS, ROWS].

    Weights and activations are loaded stages ahead, and scales a step ahead, in registers (`nf4._by_slices` says why).
    """
    absmax, nested, code, offset = scales
    blocks: tl.constexpr = SIZE // _BLOCK
    of_step = tl.arange(0, SLICES)
    at = known * blocks
    stored = tl.load(absmax + at[:, None] + tl.minimum(of_step, blocks - 1)[None, :])
    shift = tl.load(offset) if NESTED else 0.0
    # The first and the last four of each eight weights meet these activations.
    of_block = tl.arange(0, _BYTES) // 4 * 8 + tl.arange(0, _BYTES) % 4
    inside = (m < rows)[None, None, :]
    total = tl.zeros([WARPS, OUTPUTS, ROWS], dtype=tl.float32)
    for first in tl.range(0, blocks, SLICES):
        there = first + of_step < blocks
        if NESTED:
            # One for the row's whole step where steps begin at multiples of SLICES in a row, and rows do.
            if blocks % SLICES == 0:
                outer = tl.load(nested + (at + first) // _SCALES)[:, None]
            else:
                outer = tl.load(
                    nested + (at[:, None] + tl.minimum(first + of_step, blocks - 1)[None, :]) // _SCALES
                )
            scale = tl.load(code + stored.to(tl.int32)) * outer + shift
        else:
            scale = stored
        if blocks % SLICES != 0:
            scale = tl.where(there[None, :], scale, 0.0)
        following = tl.minimum(first + SLICES + of_step, blocks - 1)
        stored = tl.load(absmax + at[:, None] + following[None, :])
        k = (first + of_step)[:, None] * _BLOCK + of_block[None, :]
        mask = inside if blocks % SLICES == 0 else inside & there[:, None, None]
        low_x = tl.load(x + m[None, None, :] * SIZE + k[:, :, None], mask=mask, other=0.0)
        high_x = tl.load(x + 4 + m[None, None, :] * SIZE + k[:, :, None], mask=mask, other=0.0)
        if INTERPRETED:
            byte = packed + known[None, :, None] * (SIZE // 2) + k[:, None, :] // 2
            of_byte = there[:, None, None]
            low = _weights(tl.load(byte, mask=of_byte, other=0), k[:, None, :] % 2, pairs)
            high = _weights(tl.load(byte + 2, mask=of_byte, other=0), k[:, None, :] % 2, pairs)
            low_x, high_x = low_x.to(tl.float32), high_x.to(tl.float32)
        else:
            line = first * _BYTES + tl.arange(0, SLICES * _BYTES)
            if blocks % SLICES == 0:
                bytes_ = tl.load(packed + known[:, None] * (SIZE // 2) + line[None, :])
            else:
                of_line = (line < SIZE // 2)[None, :]
                bytes_ = tl.load(packed + known[:, None] * (SIZE // 2) + line[None, :], mask=of_line, other=0)
            bytes_ = bytes_.reshape(OUTPUTS, SLICES, _BYTES).permute(1, 0, 2)
            low, high = _looked_up(bytes_, x.dtype.element_ty)
        product = tl.dot(high, high_x, acc=tl.dot(low, low_x)) * scale.trans()[:, :, None]
        total += tl.sum(product.reshape(SLICES // WARPS, WARPS, OUTPUTS, ROWS), axis=0)
    return tl.sum(total, axis=0) * inverse(x.dtype.element_ty)


@triton.jit
def _weights(packed, second, values):
    """The interpreter's, which has no PTX: float32, of the byte's upper half or of its `second`."""
    return tl.load(values + tl.where(second == 0, packed >> 4, packed & 15).to(tl.int32))
