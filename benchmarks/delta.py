"""What the adapters' update costs beside the base's own product, by ways to compute it: why `delta.apply_` is a loop over
sorted segments on the CPU.

    python -m benchmarks.delta

One linear layer, 32 rows, ranks 8 to 64, float32. Each way in turn, as a share of the base's product:
  naive     rows in any order: gather, two products, scatter, an adapter at a time (PEFT's way)
  segments  `delta.apply_` on sorted rows
  grouped   torch's `grouped_mm` over adapters stacked by rank
  padded    gather of weights padded to the largest rank, and batched products
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from adapthub.adapters.delta import LowRank, Segment, apply_
from benchmarks.common import in_turn, milliseconds, print_table, ratio, write_results

ROWS = 32
RANKS = (8, 16, 32, 64)
LAYERS = ((384, 384), (384, 1536), (1536, 384))


def main() -> None:
    torch.manual_seed(0)
    rows = [
        _measure(layer, tokens, adapters)
        for layer in LAYERS
        for tokens in (1, 16, 64)
        for adapters in (1, 8, 32)
    ]
    print_table(rows)
    print(write_results("delta", "python -m benchmarks.delta", rows))


@torch.inference_mode()
def _measure(layer: tuple[int, int], tokens: int, adapters: int) -> dict[str, Any]:
    features_in, features_out = layer
    weight = torch.randn(features_out, features_in)
    x = torch.randn(ROWS * tokens, features_in)
    ranks = sorted(RANKS[index % len(RANKS)] for index in range(adapters))
    updates = [LowRank(torch.randn(r, features_in), torch.randn(features_out, r), 0.5) for r in ranks]
    each = ROWS * tokens // adapters
    segments = [Segment(each * i, each * (i + 1), ((1.0, str(i)),)) for i in range(adapters)]
    table = {str(index): (update,) for index, update in enumerate(updates)}
    y = torch.zeros(ROWS * tokens, features_out)
    shuffled = torch.randperm(ROWS * tokens).view(adapters, each)
    buckets = _buckets(updates, each)
    padded = _padded(updates)
    owners = torch.arange(adapters).repeat_interleave(each)

    def naive() -> None:
        for update, places in zip(updates, shuffled, strict=True):
            y[places] += (x[places] @ update.a.T) @ update.b.T * update.scale

    def grouped() -> None:
        for start, stop, a, b, ends in buckets:
            shrunk = F.grouped_mm(x[start:stop], a, offs=ends)
            y[start:stop] += F.grouped_mm(shrunk, b, offs=ends)

    def gathered() -> None:
        shrunk = torch.bmm(x[:, None], padded[0][owners])
        y.add_(torch.bmm(shrunk, padded[1][owners])[:, 0])

    seconds = in_turn(
        {
            "base": lambda: F.linear(x, weight),
            "naive": naive,
            "segments": lambda: apply_(segments, table, x, y),
            "grouped": grouped,
            # Weights a token: beyond a few tokens it is hopeless, and takes gigabytes.
            **({"padded": gathered} if tokens == 1 else {}),
        },
        rounds=15,
    )
    return {
        "layer": f"{features_in}x{features_out}",
        "tokens a row": tokens,
        "adapters": adapters,
        "base ms": milliseconds(seconds["base"]),
        **{
            name: ratio(seconds, name, "base") if name in seconds else float("nan")
            for name in ("naive", "segments", "grouped", "padded")
        },
    }


def _buckets(
    updates: list[LowRank], each: int
) -> list[tuple[int, int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(first token, last token + 1, A [n, in, r], B [n, r, out], ends [n]) of each rank."""
    buckets = []
    for rank in dict.fromkeys(len(update.a) for update in updates):
        places = [index for index, update in enumerate(updates) if len(update.a) == rank]
        a = torch.stack([updates[i].a.T for i in places]).contiguous()
        b = torch.stack([updates[i].b.T * updates[i].scale for i in places]).contiguous()
        ends = torch.arange(1, len(places) + 1, dtype=torch.int32) * each
        buckets.append((places[0] * each, (places[-1] + 1) * each, a, b, ends))
    return buckets


def _padded(updates: list[LowRank]) -> tuple[torch.Tensor, torch.Tensor]:
    largest = max(len(update.a) for update in updates)
    a = torch.stack([F.pad(u.a.T, (0, largest - len(u.a))) for u in updates])
    b = torch.stack([F.pad(u.b.T * u.scale, (0, 0, 0, largest - len(u.a))) for u in updates])
    return a, b


if __name__ == "__main__":
    main()
