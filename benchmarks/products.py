"""A float32 linear layer by torch's own product and by oneDNN: where `adapters.products` sends which.

    python -m benchmarks.products

Layers of MiniLM, SmolLM2 and of a 2,048 wide model, enough copies of each that none stays in a cache, from 1 to 256 rows.
`ours` is what `products.linear` chooses on this machine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from adapthub.adapters import products
from benchmarks.common import in_turn, milliseconds, print_table, ratio, write_results

LAYERS = ((384, 384), (1536, 384), (384, 1536), (576, 576), (1536, 576), (49152, 576), (2048, 2048))
ROWS = (1, 4, 16, 32, 64, 256)
_BYTES = 80e6  # several times the last cache
_ROUNDS = 9


def main() -> None:
    torch.manual_seed(0)
    rows = [_measure(*layer, count) for layer in LAYERS for count in ROWS]
    print_table(rows)
    chosen = products.by_onednn()
    print(write_results("products", "python -m benchmarks.products", rows, onednn=chosen))


@torch.inference_mode()
def _measure(outputs: int, inputs: int, rows: int) -> dict[str, Any]:
    weights = [torch.randn(outputs, inputs) for _ in range(max(1, int(_BYTES / (4 * outputs * inputs))))]
    x = torch.randn(rows, inputs)

    def by_torch() -> None:
        for weight in weights:
            F.linear(x, weight)

    def ours() -> None:
        for weight in weights:
            products.linear(x, weight)

    def by_onednn() -> None:
        for weight in weights:
            torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")

    seconds = in_turn({"torch": by_torch, "oneDNN": by_onednn, "ours": ours}, _ROUNDS)
    calls = len(weights)
    return {
        "layer": f"{inputs} to {outputs}",
        "rows": rows,
        **{
            f"{way} ms": milliseconds([second / calls for second in seconds[way]])
            for way in ("torch", "oneDNN")
        },
        "torch / ours": ratio(seconds, "torch", "ours"),
        "ours GFLOP/s": 2e-9 * rows * outputs * inputs * calls / min(seconds["ours"]),
    }


if __name__ == "__main__":
    main()
