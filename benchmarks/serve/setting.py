"""What the parts share: a base, a hub of adapters for it, tenants, prompts, and how much to measure.

Does not start servers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from adapthub.adapters.artifact import Artifact
from adapthub.hub import open_hub
from benchmarks.generate.files import TEXT, random_adapters

ADAPTERS, TENANTS = 200, 20


@dataclass(frozen=True)
class Setting:
    """`home`: an AdaptHub home whose hub has every one of `adapters` as one of `models`."""

    base: Path
    home: Path
    adapters: Sequence[Path]
    models: Sequence[str]
    tenants: Sequence[str]
    prompts: Sequence[str]
    rates: Sequence[float]
    seconds: float
    rounds: int

    @property
    def hub(self) -> Path:
        return self.home / "hub"


def make_setting(base: Path, folder: Path, rates: Sequence[float], seconds: float, rounds: int) -> Setting:
    """Random LoRAs (r16, all linear layers) and pieces of 16 to 64 tokens of a real text."""
    adapters = random_adapters(base, folder, ADAPTERS)
    hub = open_hub(folder / "home" / "hub")
    models = [f"acme/a{index}" for index in range(ADAPTERS)]
    for adapter, model in zip(adapters, models, strict=True):
        hub.push(Artifact.read(adapter), model)
    rng = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(TEXT.read_text())["input_ids"]
    starts = [rng.randrange(0, len(ids) - 64) for _ in range(64)]
    prompts = [str(tokenizer.decode(ids[start : start + rng.randint(16, 64)])) for start in starts]
    tenants = [f"team-{index}" for index in range(TENANTS)]
    return Setting(base, folder / "home", adapters, models, tenants, prompts, rates, seconds, rounds)
