"""What an 8B nf4 model's passes with adapters must move and compute, by count: runs on any machine, and measures nothing.

    python -m benchmarks.roofline [--gbs 3350] [--tflops 989] [--cache-gbs 5500]

Llama-3.1-8B's shapes, nf4 double-quantised, LoRA on all linear layers, each of `rows` rows on one of `adapters`; keys and
values are left out. The defaults are an H100 SXM's memory and products, by its data sheet; its cache's speed is an
assumption.

`base ms` is the greater of the bytes' and the products' time; `adapters ms` what reading each adapter once takes beyond; and
`ceiling` the share of the base's speed that is left. `8 bit` is the ceiling with adapters of one byte a weight, and
`epilogue ms` what adding in the base's own products would save: outputs that are read and written once less. `cache ms` is
what all tokens' reading of their adapters takes of the cache, one by one, and `by runs` with `token_runs`' runs: beside the
base while it is less, and instead of it where it is more.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from adapthub.adapters.token_runs import tile_for
from benchmarks.common import print_table, write_results

LAYERS = 32
SIDES = ((4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096))
WEIGHTS = LAYERS * sum(size * out for size, out in SIDES)
OUTPUTS = LAYERS * sum(out for _, out in SIDES)
LAST = 128256 * 4096 * 2  # bytes of the output embeddings
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # bytes a weight, with its scales
CASES = [
    *((32, 1, count, rank) for count in (1, 8, 32) for rank in (16, 64)),
    *((8, 512, count, 16) for count in (1, 8)),
    (1, 2048, 1, 64),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gbs", type=float, default=3350)
    parser.add_argument("--tflops", type=float, default=989)
    parser.add_argument("--cache-gbs", type=float, default=5500)
    options = parser.parse_args()
    rows = [counted(*case, options) for case in CASES]
    command = " ".join(["python -m benchmarks.roofline", *sys.argv[1:]])
    print(write_results("roofline", command, rows, counted=True))
    print_table(rows)


def counted(rows: int, each: int, adapters: int, rank: int, options: argparse.Namespace) -> dict[str, Any]:
    """One pass over `rows` rows of `each` tokens, of which `adapters` adapters have like many."""
    tokens = rows * each
    speed, cache = options.gbs * 1e6, options.cache_gbs * 1e6  # bytes a millisecond
    products = 2 * tokens * WEIGHTS / (options.tflops * 1e9)
    base = max((WEIGHTS * NF4 + LAST) / speed, products)
    numbers = LAYERS * rank * sum(size + out for size, out in SIDES)  # of an adapter
    bound_by_bytes = products < base
    beyond = adapters * numbers * 2 / speed if bound_by_bytes else 0.0
    beyond += 2 * tokens * numbers / (options.tflops * 1e9)
    tile = tile_for(tokens) or 1
    runs = rows * -(-each // tile)
    return {
        "rows": rows,
        "tokens each": each,
        "adapters": adapters,
        "rank": rank,
        "base ms": base,
        "adapters ms": beyond,
        "ceiling": base / (base + beyond),
        "8 bit": base / (base + beyond / 2) if bound_by_bytes else base / (base + beyond),
        "epilogue ms": 2 * 2 * tokens * OUTPUTS / speed,
        "cache ms": tokens * numbers * 2 / cache,
        "by runs": runs * numbers * 2 / cache,
    }


if __name__ == "__main__":
    main()
