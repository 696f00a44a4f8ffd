"""What nf4's codes stand for, looked up eight bytes at a time in registers: two ways at once, that different units take.

- A value of 16 bits is two bytes, and each is one of 16 that lie in four registers: PTX's `prmt` picks four bytes out of two
  registers by the lower three bits of four codes, and picks again among what it found by the fourth bit. 2.6 integer
  instructions a weight.
- Lane i of a warp has the value of code i % 16, and gives it to whoever asks by a shuffle: one, and a shift. A shuffle
  looks at the lower five bits of what it is given, and lanes i and i + 16 have the same.

The integer units alone, or the shuffles alone, would not keep up with the memory of an H200; a quarter of the weights by the
first way keeps both busy.

Does not know what scales the values.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

# As bitsandbytes has them (`bitsandbytes.functional.get_4bit_type`).
CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# That the code is multiplied by before it is rounded. Of [1, 2), these lose least: 0.0006 and 0.00006 of the code's norm.
FACTORS = {torch.bfloat16: 1.4370050430297852, torch.float16: 1.677690029144287}


@cache
def values(dtype: torch.dtype) -> torch.Tensor:
    """The code times its factor, rounded to the dtype: float32 [16]."""
    return (torch.tensor(CODE, dtype=torch.float64) * FACTORS[dtype]).to(dtype).float()


def _registers(dtype: torch.dtype) -> list[str]:
    """The values' bytes, four a register: the lower ones of the 16 values, then the upper ones."""
    bits = values(dtype).to(dtype).view(torch.int16).tolist()
    planes = [[value >> shift & 0xFF for value in bits] for shift in (0, 8)]
    return [
        f"0x{int.from_bytes(bytes(plane[start : start + 4]), 'little'):08x}"
        for plane in planes
        for start in range(0, 16, 4)
    ]


def _permuted(dtype: torch.dtype, word: str) -> str:
    """The lower and the upper bytes of the values of the four codes in a word's lower half."""
    l0, l1, l2, l3, u0, u1, u2, u3 = _registers(dtype)
    return f"""
        and.b32 low, {word}, 0x77777777;
        shr.u32 high, {word}, 1;
        lop3.b32 high, high, 0x44444444, 0x32103210, 0xEA;
        prmt.b32 a, {l0}, {l1}, low;
        prmt.b32 b, {l2}, {l3}, low;
        prmt.b32 lower, a, b, high;
        prmt.b32 a, {u0}, {u1}, low;
        prmt.b32 b, {u2}, {u3}, low;
        prmt.b32 upper, a, b, high;"""


def _shuffled(dtype: torch.dtype, word: str, code: int, result: str) -> str:
    """The values of a word's codes `code` and `code + 2` in one register. Each leaves the other's half zero, so that a sum
    joins them; of floats, since the units for integers have enough to do."""
    return f"""
        shr.u32 code, {word}, {4 * code};
        shfl.sync.idx.b32 a, below, code, 0x1f, 0xffffffff;
        shr.u32 code, {word}, {4 * code + 8};
        shfl.sync.idx.b32 b, above, code, 0x1f, 0xffffffff;
        fma.rn.{"bf16x2" if dtype == torch.bfloat16 else "f16x2"} {result}, a, one, b;"""


def _assembly(dtype: torch.dtype) -> str:
    """PTX: eight bytes in $8 and $9 to the first weights of each, two a register in $0 to $3, and the second in $4 to $7.

    A byte's first weight is its upper half. The lane's own value, `below` or `above` in a register, is the same in each use,
    and so the assembler computes it once, ahead of any loop.
    """
    return f"""{{
        .reg .b32 low, high, a, b, lower, upper, below, above, code, one;
        mov.b32 one, {"0x3f803f80" if dtype == torch.bfloat16 else "0x3c003c00"};
        mov.u32 code, %laneid;{_permuted(dtype, "code")}
        prmt.b32 below, lower, upper, 0x0040;
        and.b32 below, below, 0x0000ffff;
        shl.b32 above, below, 16;{_permuted(dtype, "$8")}
        prmt.b32 $0, lower, upper, 0x7351;
        prmt.b32 $4, lower, upper, 0x6240;{
        "".join(
            _shuffled(dtype, word, code + second, f"${place + 4 * (1 - second)}")
            for word, code, place in (("$8", 4, 1), ("$9", 0, 2), ("$9", 4, 3))
            for second in (1, 0)
        )
    }
        }}"""


_BFLOAT16 = tl.constexpr(_assembly(torch.bfloat16))
_FLOAT16 = tl.constexpr(_assembly(torch.float16))
_OPERANDS = tl.constexpr(",".join(["=&r"] * 8 + ["r"] * 2))
_BFLOAT16_INVERSE = tl.constexpr(1 / FACTORS[torch.bfloat16])
_FLOAT16_INVERSE = tl.constexpr(1 / FACTORS[torch.float16])


@triton.jit
def looked_up(packed, values, dtype: tl.constexpr, INTERPRETED: tl.constexpr):
    """Bytes [...] to the first and the second weight of each [...], times the dtype's factor. Whole warps must call.

    They are of the dtype; under the interpreter, which has no PTX, float32 of the same values.
    """
    if INTERPRETED:
        first = tl.load(values + (packed >> 4).to(tl.int32))
        second = tl.load(values + (packed & 15).to(tl.int32))
    elif dtype == tl.bfloat16:
        first, second = tl.inline_asm_elementwise(
            _BFLOAT16, _OPERANDS, [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=8
        )
    else:
        first, second = tl.inline_asm_elementwise(
            _FLOAT16, _OPERANDS, [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=8
        )
    return first, second


@triton.jit
def inverse(dtype: tl.constexpr):
    """One over the dtype's factor."""
    return _BFLOAT16_INVERSE if dtype == tl.bfloat16 else _FLOAT16_INVERSE
