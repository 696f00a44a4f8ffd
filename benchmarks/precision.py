"""One training step in float32 and in bfloat16: LoRA r8 over MiniLM, on an unquantised and on an nf4 base.

    python -m benchmarks.precision [--rounds 15]

32 CoNLL-2003 sentences of ordinary length, forward, backward and AdamW, in turn. Where the processor has no bfloat16
instructions the ratio shows why `precision="auto"` stays with float32 there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from adapthub.recipes.adaptation import adapt, multiplies_bfloat16
from adapthub.recipes.job import prepare
from benchmarks.common import in_turn, milliseconds, print_table, ratio, write_results

BASE, ROWS = "package:minilm", 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    results = []
    for quantize in (None, "nf4"):
        step = training_step(quantize)
        seconds = in_turn(
            {
                "float32": partial(step, bfloat16=False),
                "bfloat16": partial(step, bfloat16=True),
            },
            options.rounds,
        )
        results.append(
            {
                "quantize": quantize or "none",
                "native bfloat16": multiplies_bfloat16(),
                "float32 ms": milliseconds(seconds["float32"]),
                "bfloat16 ms": milliseconds(seconds["bfloat16"]),
                "float32 / bfloat16": ratio(seconds, "float32", "bfloat16"),
            }
        )
    print_table(results)
    print(write_results("precision", "python -m benchmarks.precision", results, base=BASE))


def training_step(quantize: str | None) -> Callable[..., None]:
    """A step of NER, called with `bfloat16`: whether it computes in that."""
    data = fetch("conll2003")
    job = prepare(
        "ner",
        data / "train.conll",
        base=BASE,
        quantize=quantize,
        method="lora",
        validation=data / "validation.conll",
        test=None,
        seed=0,
        given={},
    )
    base = load_base(BASE, quantize=quantize)
    model = adapt(base, job.task, job.labels, "lora", job.adapter).model.train()
    rows = sorted(job.splits["train"].encoded.rows, key=lambda row: len(row["input_ids"]))
    middle = len(rows) // 2
    batch = job.recipe.collator(job.processor)(rows[middle : middle + ROWS])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(*, bfloat16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
