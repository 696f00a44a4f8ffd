"""Runs the PTX of our kernels' assembly, which Triton's interpreter does not: of no more instructions than these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TABLE = 0x1000  # where the variable of shared memory begins
_LANES = 32


def run_ptx(
    assembly: str, given: Mapping[str, Sequence[int]], results: int, shared: Mapping[int, int] | None = None
) -> list[list[int]]:
    """$0 to ${results - 1} of a warp's 32 lanes, from what is `given` of each; `shared` is words by address."""
    registers = {name: list(values) for name, values in given.items()}
    registers |= {"%laneid": list(range(_LANES)), "adapthub_pairs": [TABLE] * _LANES}
    for line in filter(None, (line.strip() for line in assembly.strip("{} \n").split(";"))):
        name, _, rest = line.partition(" ")
        if name == ".reg":
            continue
        target, *operands = (operand.strip() for operand in rest.split(","))
        read = [registers[o] if o in registers else [int(o, 0)] * _LANES for o in map(_plain, operands)]
        if name == "ld.shared.b32":
            assert shared is not None
            registers[target] = [shared[address] for address in read[0]]
        else:
            registers[target] = [_run(name, read, lane) for lane in range(_LANES)]
    return [registers[f"${place}"] for place in range(results)]


def _plain(operand: str) -> str:
    return operand.strip("[]")


def _run(name: str, given: list[list[int]], lane: int) -> int:
    a, b, *more = (operand[lane] for operand in given) if len(given) > 1 else (given[0][lane], 0)
    match name:
        case "mov.u32" | "mov.b32":
            return a
        case "and.b32":
            return a & b
        case "add.u32":
            return a + b & 0xFFFFFFFF
        case "mad.lo.u32":
            return a * b + more[0] & 0xFFFFFFFF
        case "shr.u32":
            return a >> b
        case "shl.b32":
            return a << b & 0xFFFFFFFF
        case "lop3.b32":
            assert more[1] == 0xEA
            return a & b | more[0]
        case "shfl.sync.idx.b32":
            assert more == [0x1F, 0xFFFFFFFF]
            return given[0][b & 0x1F]
        case "fma.rn.bf16x2" | "fma.rn.f16x2":
            assert b == (0x3F803F80 if "bf16" in name else 0x3C003C00)
            assert a >> 16 == 0 == more[0] & 0xFFFF  # each half of a product with one is added to zero
            return a | more[0]
        case "prmt.b32":
            selectors = [more[0] >> 4 * place & 15 for place in range(4)]
            assert max(selectors) < 8
            return int.from_bytes(bytes((b << 32 | a) >> 8 * s & 0xFF for s in selectors), "little")
    raise AssertionError(name)
