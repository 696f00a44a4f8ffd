"""Compiles kernels for a GPU of a capability (90 is 9.0), which need not be there: a JSON line each.

    python -m tests.kernels.compiled others 90

`pairs`: `nf4_pairs` by every plan. `others`: each other kernel as bfloat16 models call it. Run as a program of its own:
where Triton interprets, it does not compile.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adapthub.adapters.kernels import (
    decode_attention,
    few_rows,
    int8,
    low_rank,
    low_rank_runs,
    nf4,
    nf4_choice,
    nf4_pairs,
    nf4_training,
)
from adapthub.adapters.kernels.nf4_pairs import PairsPlan

_STORED = {
    "packed": "*u8",
    "absmax": "*u8",
    "nested": "*fp32",
    "code": "*fp32",
    "offset": "*fp32",
    "bias": "*bf16",
}
# What the others' arguments are; whatever is no pointer here is a number.
_POINTERS = _STORED | {
    "values": "*fp32",
    "x": "*bf16",
    "y": "*bf16",
    "y0": "*bf16",
    "y1": "*bf16",
    "y2": "*bf16",
    "weights": "*i8",
    "scales": "*fp32",
    "sums": "*fp32",
    "dense": "*bf16",
    "gradient": "*bf16",
    "wide": "*bf16",
    "flat": "*fp32",
    "low": "*fp32",
    "table": "*i64",
    "factors": "*fp32",
    "runs": "*i64",
    "segments": "*i64",
    "starts": "*i64",
}
_ATTENDED = _POINTERS | {
    "query": "*bf16",
    "keys": "*bf16",
    "values": "*bf16",
    "table": "*i32",
    "lanes": "*i64",
    "lengths": "*i64",
    "stats": "*fp32",
    "output": "*bf16",
    "sinks": "*bf16",
    "scale": "fp32",
    "softcap": "fp32",
}


_STRIDES = {"x_stride", "wide_stride", "stride0", "stride1", "stride2", "out0", "out1", "out2", "size"}
_STRIDES |= {"query_row", "query_head", "keys_head", "keys_slot", "values_head", "values_slot"}


def compiled(kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], **options: Any) -> Any:
    """Arguments that are neither are whole numbers; pointers are aligned, and strides of activations."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [
        place for place, name in enumerate(names) if signature[name].startswith("*") or name in _STRIDES
    ]
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[2]), 32), options=options)


def pairs(plan: PairsPlan, size: int, matrices: int) -> Any:
    types = {f"{name}{place}": kind for name, kind in _STORED.items() for place in range(nf4_pairs.MOST)}
    types |= {"x": "*bf16", "y": "*bf16", "pairs": "*i32"}
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
    options = {"num_warps": plan.warps, "num_stages": plan.stages, "launch_pdl": plan.follows}
    return compiled(nf4_pairs._by_pairs, types, constants, **options)


def others() -> Iterator[tuple[str, Any]]:
    """Each with its name."""
    here: dict[str, Any] = {"INTERPRETED": False}
    for rows, outputs in ((8, 1024), (16, 14336), (64, 4096)):
        for module, name in ((nf4, "nf4"), (int8, "int8")):
            plan = few_rows.plan_for(module.CUTS, rows, outputs, 4096)
            constants = here | {"SIZE": 4096, "BIAS": plan.parts == 1, "STAGES": plan.stages}
            constants |= {"ROWS": plan.rows, "OUTPUTS": plan.outputs, "PARTS": plan.parts}
            constants |= {"NESTED": True} if module is nf4 else {}
            constants |= {"SLICES": plan.slices} if plan.slices else {}
            constants |= {"WARPS": plan.warps} if plan.slices and module is nf4 else {}
            kernel = module._by_slices if plan.slices else module._by_outputs
            types = _POINTERS | ({} if plan.parts > 1 else {"sums": "*bf16"})
            options = {"num_warps": plan.warps, "num_stages": plan.stages}
            yield f"{name} of {rows} rows", compiled(kernel, types, constants, **options)
    constants = {"BIAS": True, "PARTS": 4, "OUTPUTS": 512}
    yield "sum of parts", compiled(few_rows._sum, _POINTERS, constants)
    for nested in (False, True):
        types = _POINTERS | ({} if nested else {"absmax": "*fp32"})
        constants = {"NESTED": nested, "BLOCKS": 16}
        yield "dequantise", compiled(nf4_training._dequantise, types, constants)
        constants = here | {"SIZE": 4096, "NESTED": nested, "ROWS": 16, "OUTPUTS": 64}
        yield "gradient of input", compiled(nf4_training._of_input, types, constants)
    for terms in (1, 2):
        constants = {"IN": 4096, "TERMS": terms, "BLOCK_RANK": 4, "BLOCK_IN": 512}
        yield "shrink", compiled(low_rank._shrink, _POINTERS, constants)
        constants = {"TERMS": terms, "BLOCK_RANK": 16, "BLOCK_OUT": 128, "COUNT": 3}
        yield "expand", compiled(low_rank._expand, _POINTERS, constants)
    for tile, rank, backward in ((16, 16, False), (16, 64, False), (64, 64, True)):
        constants = here | {"TERMS": 1, "ROWS": tile, "BACKWARD": backward}
        of_shrink = {"IN": 4096, "BLOCK_RANK": rank, "BLOCK_IN": 64 if tile * rank > 2048 else 128}
        yield "shrink runs", compiled(low_rank_runs._shrink, _POINTERS, constants | of_shrink)
        of_expand = {"BLOCK_RANK": 16, "BLOCK_OUT": 128, "COUNT": 3 - 2 * backward}
        warps = 4 if tile <= 32 else 8
        yield (
            "expand runs",
            compiled(low_rank_runs._expand, _POINTERS, constants | of_expand, num_warps=warps),
        )
        constants = here | {"ROWS": 64, "BLOCK_RANK": rank, "BLOCK_SIZE": 64, "OF_B": backward}
        yield "gradients of runs", compiled(low_rank_runs._gradients, _POINTERS, constants)
    # Of Llama's heads, with sinks or none, Gemma's and DeepSeek-V2's.
    for sinks, size, value_size in (
        (False, 128, 128),
        (True, 128, 128),
        (False, 256, 256),
        (False, 192, 128),
    ):
        sizes: dict[str, Any] = {"HEADS": 32, "PARTS": 4, "VALUE_SIZE": value_size, "BLOCK_VALUE": value_size}
        constants = sizes | {"WINDOW": 4096 * sinks, "CAPPED": sinks, "GROUP": 4, "SIZE": size}
        constants |= {"BLOCK_GROUP": 16, "BLOCK": 64, "BLOCK_SIZE": triton.next_power_of_2(size)}
        yield "attention", compiled(decode_attention._attend, _ATTENDED | {"sums": "*fp32"}, constants)
        constants = sizes | {"SINKS": sinks, "BLOCK_PARTS": 4}
        yield "attention joined", compiled(decode_attention._join, _ATTENDED, constants)


def main() -> None:
    if sys.argv[1] == "others":
        for name, made in others():
            wide = len(
                re.findall(r"ld\.global\S*\.v4|cp\.async\S* \[[^]]*\], \[[^]]*\], 0x10", made.asm["ptx"])
            )
            print(
                json.dumps(
                    {
                        "kernel": name,
                        "shared": made.metadata.shared,
                        "machine": len(made.asm["cubin"]),
                        "wide": wide,
                    }
                )
            )
        return
    for plan in nf4_choice.CANDIDATES:
        if bool(plan.ahead) != plan.follows:
            continue  # every option with and without, not every pair of them
        for size in (2048, 4096) if plan.slices <= 16 else (4096,):
            made = pairs(plan, size, 1 + plan.follows)
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
