"""What the parts share: the setting that they measure, prompts, who uses which adapter, and our runtime in use.

Does not measure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer

from adapthub.adapters.base import Base, load_base
from adapthub.runtime import Runtime
from adapthub.runtime.generation import Limits
from benchmarks.generate.files import TEXT

REQUESTS, NEW = 32, 32
KV_TOKENS, MAX_ROWS, STEP_TOKENS = 32768, 64, 512
Prompts = list[list[int]]


@dataclass(frozen=True)
class Setting:
    """One base, how it is loaded and where, adapters for it on disk, and how much to measure.

    `counts`: of adapters in flight, by `spreads`. `folder`: to write more adapters into.
    """

    path: Path
    adapters: Sequence[Path]
    quantize: str | None
    device: str
    counts: Sequence[int]
    spreads: Sequence[str]
    rounds: int
    folder: Path

    @property
    def loaded(self) -> str:
        """How it is loaded, in results."""
        return self.quantize or "none"

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """What everybody computes in."""
        return "float32" if self.device == "cpu" else "bfloat16"

    def base(self) -> Base:
        return load_base(str(self.path), self.quantize, self.device, self.dtype)

    def runtime(self, slots: int | None = None) -> Runtime:
        limits = Limits(kv_tokens=KV_TOKENS, max_rows=MAX_ROWS, step_tokens=STEP_TOKENS)
        return Runtime(self.base(), slots=slots, limits=limits)

    def prompts(self, count: int = REQUESTS) -> Prompts:
        """Pieces of 16 to 64 tokens of a real text."""
        rng = random.Random(0)
        tokenizer = AutoTokenizer.from_pretrained(self.path)
        ids = tokenizer(TEXT.read_text())["input_ids"]
        starts = [rng.randrange(0, len(ids) - 64) for _ in range(count)]
        return [ids[start : start + rng.randint(16, 64)] for start in starts]


def ours(runtime: Runtime, prompts: Prompts, adapters: Sequence[Path | None]) -> list[list[int]]:
    """The tokens that each prompt is continued with, on its adapter."""
    runtime.generation.engine.clear_cache()  # no peer keeps prompts from one round to the next
    results = runtime.generate(prompts, adapters, max_new_tokens=NEW, ignore_eos=True)
    return [result.token_ids for result in results]


def chosen_adapters(count: int, spread: str, requests: int = REQUESTS, seed: int = 0) -> list[int]:
    """The adapter of each request, by its place: of `count`, "uniform" or "zipf"."""
    rng = random.Random(seed)
    if spread == "zipf":
        return rng.choices(range(count), weights=[1 / (rank + 1) for rank in range(count)], k=requests)
    chosen = [index % count for index in range(requests)]
    rng.shuffle(chosen)
    return chosen
