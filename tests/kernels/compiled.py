"""Compiles `nf4_pairs` for a GPU of capability 9.0, which need not be there, by every plan: a JSON line each.

Run as a program of its own: where Triton interprets, it does not compile.
"""

from __future__ import annotations

import json
import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adapthub.adapters.kernels import nf4_choice, nf4_pairs
from adapthub.adapters.kernels.nf4_pairs import PairsPlan

_STORED = {
    "packed": "*u8",
    "absmax": "*u8",
    "nested": "*fp32",
    "code": "*fp32",
    "offset": "*fp32",
    "bias": "*bf16",
}


def compiled(plan: PairsPlan, size: int, matrices: int) -> Any:
    kernel = nf4_pairs._by_pairs
    types = {f"{name}{place}": kind for name, kind in _STORED.items() for place in range(nf4_pairs.MOST)}
    types |= {f"outputs{place}": "i32" for place in range(nf4_pairs.MOST)}
    types |= {"x": "*bf16", "y": "*bf16", "pairs": "*i32", "rows": "i32"}
    constants = {
        "SIZE": size,
        "NESTED": True,
        "BIASES": 0,
        "MATRICES": matrices,
        "INTERPRETED": False,
        "ROWS": plan.rows,
        "OUTPUTS": plan.outputs,
        "SLICES": plan.slices,
        "WARPS": plan.warps,
        "AHEAD": plan.ahead,
        "FOLLOWS": plan.follows,
    }
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if types.get(name, "").startswith("*")
        },
    )
    options = {"num_warps": plan.warps, "num_stages": plan.stages, "launch_pdl": plan.follows}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main() -> None:
    for plan in nf4_choice.CANDIDATES:
        if bool(plan.ahead) != plan.follows:
            continue  # every option with and without, not every pair of them
        for size in (2048, 4096) if plan.slices <= 16 else (4096,):
            made = compiled(plan, size, 1 + plan.follows)
            looked_up = [line for line in made.asm["ttgir"].splitlines() if "mad.lo.u32" in line]
            print(
                json.dumps(
                    {
                        "plan": plan,
                        "size": size,
                        "shared": made.metadata.shared,
                        "operands": [
                            re.findall(r"dot_op<\{opIdx = 0[^}]*kWidth = (\d+)", line) for line in looked_up
                        ],
                        "machine": len(made.asm["cubin"]),
                    }
                )
            )


if __name__ == "__main__":
    main()
