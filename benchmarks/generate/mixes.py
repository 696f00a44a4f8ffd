"""Adapters in flight, uniform and Zipf: ours against the peers, in turn.

  base           our engine, every request on the base alone
  ours           our engine, each request on its adapter
  peft in turn, peft mixed, transformers: see peers

`ceiling`: the part of base's speed that is left once the adapters' own products are paid for: those of the prompts and those
of a step are timed here by themselves, at their fastest.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from adapthub.adapters.base import Base
from adapthub.adapters.stacks import Slots, times
from adapthub.runtime import Runtime
from benchmarks.common import in_turn, print_table, ratio
from benchmarks.generate.common import NEW, REQUESTS, Setting, chosen_adapters, ours
from benchmarks.generate.files import LINEAR, RANK
from benchmarks.generate.peers import load_peft, load_plain, peft_in_turn, peft_mixed, transformers


def measure(setting: Setting) -> list[dict[str, Any]]:
    rows = []
    with setting.runtime() as runtime:
        peft = load_peft(setting)
        plain = load_plain(setting)
        for count in setting.counts:
            requests = max(REQUESTS, count)
            prompts = setting.prompts(requests)
            for spread in setting.spreads if count > 1 else ("uniform",):
                chosen = chosen_adapters(count, spread, requests)
                tokens: dict[str, list[list[int]]] = {}
                programs: dict[str, Callable[[], Any]] = {
                    "base": partial(ours, runtime, prompts, [None] * requests),
                    "ours": partial(ours, runtime, prompts, [setting.adapters[i] for i in chosen]),
                    "peft in turn": partial(peft_in_turn, peft, prompts, chosen),
                    "peft mixed": partial(peft_mixed, peft, prompts, chosen),
                    "transformers": partial(transformers, plain, prompts),
                }
                for name in ("ours", "peft in turn"):
                    programs[name] = partial(_keep, tokens, name, programs[name])
                seconds = in_turn(programs, setting.rounds)
                alone = statistics.median(seconds["base"])
                filling, step = _products(runtime, chosen, [len(prompt) for prompt in prompts])
                rows.append(
                    {
                        "quantize": setting.loaded,
                        "requests": requests,
                        "adapters": len(set(chosen)),
                        "spread": spread,
                        "tokens/s": round(requests * NEW / sorted(seconds["ours"])[setting.rounds // 2], 1),
                        "peft in turn / ours": ratio(seconds, "peft in turn", "ours"),
                        "peft mixed / ours": ratio(seconds, "peft mixed", "ours"),
                        "transformers / base": ratio(seconds, "transformers", "base"),
                        "base / ours": ratio(seconds, "base", "ours"),
                        "ceiling": alone / (alone + filling + (NEW - 1) * step),
                        "same tokens": _same(tokens["ours"], tokens["peft in turn"]),
                    }
                )
                print_table(rows[-1:])
    return rows


def _keep(kept: dict[str, list[list[int]]], name: str, program: Callable[[], list[list[int]]]) -> None:
    kept[name] = program()


def _same(own: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of requests whose tokens are PEFT's: padded batches round differently, and a tie may fall otherwise."""
    return sum(a == b for a, b in zip(own, theirs, strict=True)) / len(own)


def _products(runtime: Runtime, chosen: Sequence[int], lengths: Sequence[int]) -> tuple[float, float]:
    """Seconds that the LoRA products of all prompts take, and those of one more token of every request; nothing else, and by
    the fastest way that torch has for rows of one token (a lookup of embeddings) or of several (a product)."""
    tokens: Counter[int] = Counter()
    for adapter, length in zip(chosen, lengths, strict=True):
        tokens[adapter] += length
    modules = [
        module for name, module in runtime.base.model.named_modules() if name.rpartition(".")[2] in LINEAR
    ]
    sizes = [size for m in modules for size in ((m.in_features, RANK), (RANK, m.out_features))]
    programs = {
        "prompts": _program(sizes, list(tokens.values()), runtime.base),
        "step": _program(sizes, list(Counter(chosen).values()), runtime.base),
    }
    with torch.inference_mode():
        seconds = in_turn(programs, 5)
    return min(seconds["prompts"]), min(seconds["step"])


def _program(sizes: Sequence[tuple[int, int]], rows: Sequence[int], base: Base) -> Callable[[], None]:
    """Products of `rows` tokens, an adapter each, with matrices of all `sizes`, none read twice."""
    single = sum(count == 1 for count in rows)
    several = [count for count in rows if count > 1]
    slots = Slots(tuple(range(single)))
    random = partial(torch.randn, device=base.device, dtype=base.dtype)
    layers = [
        (
            random(single, size),
            random(single, size, out),
            [(random(count, size), random(size, out)) for count in several],
        )
        for size, out in sizes
    ]

    def products() -> None:
        for one, matrices, many in layers:
            if single:
                times(one, matrices, slots)
            for x, matrix in many:
                torch.mm(x, matrix)

    return products
