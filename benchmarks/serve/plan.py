"""What clients will ask: when, as whom, of which model. Made before anything runs, and the same for every peer.

Does not send anything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

NEW = 32  # tokens that every request generates


@dataclass(frozen=True)
class Ask:
    """One request. `at`: seconds after the beginning; `tenant`: whose key is sent."""

    at: float
    tenant: str
    model: str
    prompt: str
    max_tokens: int = NEW


def poisson(
    rate: float,
    seconds: float,
    tenants: Sequence[str],
    models: Sequence[str],
    prompts: Sequence[str],
    seed: int,
) -> list[Ask]:
    """Requests at `rate` a second whether earlier ones have ended or not; models by Zipf's law, tenants evenly."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(models))]
    asks, at = [], rng.expovariate(rate)
    while at < seconds:
        model = rng.choices(models, weights)[0]
        asks.append(Ask(at, rng.choice(tenants), model, rng.choice(prompts)))
        at += rng.expovariate(rate)
    return asks


def at_once(count: int, models: Sequence[str], prompts: Sequence[str]) -> list[Ask]:
    """`count` requests that come together, a model and a prompt each in turn."""
    return [
        Ask(0.0, "", models[index % len(models)], prompts[index % len(prompts)]) for index in range(count)
    ]


def as_json(asks: Sequence[Ask]) -> list[Mapping[str, object]]:
    """For the client's process."""
    return [asdict(ask) for ask in asks]
