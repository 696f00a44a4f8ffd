"""A hub that nobody filled: what each adapter of it would say of itself, and in which order its versions were published.

Everything follows from the number of adapters. Half of them have 4 versions, two in five 10, one in ten 40: ten on average.
Namespaces, bases, tasks and words follow Zipf's law: the first namespace has a good part of everything. One adapter in three
is trained further from version to version, one in four goes on from the first version of another, of a few more often than
of the rest. Writes nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from adapthub.adapters.base_record import KnownBase
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.manifest import DataRecord
from adapthub.adapters.tasks import Task
from adapthub.hub.registry import Metric

ALIAS = "prod"
"""What every third version is promoted to, from the first on."""
RANK, WIDTH = 2, 8
SPLITS = ("test", "validation")
_VERSIONS = (4, 10, 4, 10, 4, 40, 4, 10, 4, 10)
_TASKS: tuple[tuple[Task, str, tuple[str, ...]], ...] = (
    ("text-classification", "accuracy", ("negative", "positive")),
    ("text-generation", "loss", ()),
    ("token-classification", "f1", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    ("feature-extraction", "recall", ()),
)
_METHODS = ("lora", "dora", "ia3", "prefix")
_WITH_BYTES = 50
_BASES, _WORDS, _LONGEST_CARD = 60, 4000, 120
_DATASETS = 3  # a task
_LAYERS = (6, 12, 24)
_IN_A_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_TARGETS = (("query", "value"), ("key", "query", "value"), ("dense", "key", "query", "value"))
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4)))


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / place for place in range(1, count + 1)))


_RNG = random.Random(5)
WORDS = list(dict.fromkeys(_word(_RNG) for _ in range(3 * _WORDS)))[:_WORDS]
BASES = [f"{_word(_RNG)}-ai/{_word(_RNG)}-{size}b" for size in range(1, _BASES + 1)]
FINGERPRINTS = {
    base: Fingerprint(*(sha256_bytes(f"{base} {part}".encode()) for part in range(4))) for base in BASES
}
LAYERS = {base: _LAYERS[place % len(_LAYERS)] for place, base in enumerate(BASES)}
_DIGESTS = [fingerprint.digest for fingerprint in FINGERPRINTS.values()]
_WORDS_SO_FAR, _BASES_SO_FAR = _zipf(len(WORDS)), _zipf(_BASES)


def modules_of(base: str, targets: tuple[str, ...]) -> list[str]:
    """The modules of a base whose names end so."""
    names = (f"encoder.layer.{layer}.{part}" for layer in range(LAYERS[base]) for part in _IN_A_LAYER)
    return [name for name in names if name.rpartition(".")[2] in targets]


def known_base(base: str) -> KnownBase:
    """The record of a base."""
    modules = modules_of(base, _TARGETS[-1])
    return KnownBase(
        id=base,
        revision=None,
        fingerprint=FINGERPRINTS[base],
        model_type="bert",
        prefix="bert",
        backbone="",
        output=None,
        hidden_size=WIDTH,
        layers=LAYERS[base],
        key_value_heads=1,
        head_size=WIDTH,
        kinds=dict.fromkeys(modules, "linear"),
        parameters={f"{name}.weight": (WIDTH, WIDTH) for name in modules},
    )


@dataclass(frozen=True)
class Adapter:
    """One adapter of it. Weights, metrics and manifest are another version's in each; the rest never changes."""

    index: int
    namespace: str
    name: str
    versions: int
    private: bool
    task: Task
    metric: str
    labels: tuple[str, ...]
    base: str
    base_fingerprint: str
    method: str
    words: str
    origin: int | None

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "library_name": "peft",
            "base_model": self.base,
            "license": "apache-2.0",
            "language": ("en", "de", "fr")[self.index % 3],
            "tags": [f"lora-{self.words.split(' ', 1)[0]}"],
        }

    @property
    def card(self) -> str:
        return f"---\n{json.dumps(self.metadata)}\n---\n# {self.name}\n\n{self.words}\n"

    @property
    def targets(self) -> tuple[str, ...]:
        return _TARGETS[self.index % len(_TARGETS)]

    @property
    def data(self) -> dict[str, DataRecord]:
        """The rows that its splits have; every third adapter for a task is measured on the same."""
        which = f"{self.task} {self.index % _DATASETS}"
        return {
            split: DataRecord(
                fingerprint=f"sha256:{sha256_bytes(f'{which} {split}'.encode())}",
                rows=100,
                source=f"{which} {split}",
            )
            for split in SPLITS
        }

    def parents(self, number: int) -> list[tuple[int, int]]:
        """What its version `number` was trained on from: (index, number), each published before it."""
        found = []
        if number == 2 and self.origin not in (None, self.index):
            found.append((self.origin, 1))
        if number > 1 and self.index % 3 == 0:
            found.append((self.index, number - 1))
        return found

    def is_promoted(self, number: int) -> bool:
        return number % 3 == 1

    def message(self, number: int) -> str:
        return f"Version {number}"

    def measured(self, number: int) -> tuple[Metric, ...]:
        """Of its version `number`, on two splits."""
        value = ((self.index * 7919 + number * 104729) % 10_000) / 10_000
        return tuple(Metric(split, self.metric, value, value - 0.05, value + 0.05, 100) for split in SPLITS)


@dataclass(frozen=True)
class Population:
    """So many adapters."""

    size: int

    @cached_property
    def adapters(self) -> list[Adapter]:
        rng = random.Random(1)
        namespaces = [f"{rng.choice(WORDS)}-{place}" for place in range(max(1, self.size // 20))]
        so_far = _zipf(len(namespaces))
        return [self._adapter(rng, index, namespaces, so_far) for index in range(self.size)]

    @property
    def with_bytes(self) -> list[Adapter]:
        """Those whose cards can be read when it is filled by bulk."""
        return self.adapters[::_WITH_BYTES]

    def publications(self) -> Iterator[tuple[Adapter, int]]:
        """Each version of each adapter, as (adapter, number), in the order of their publication: all first ones in any
        order, then all second ones ..."""
        for number in range(1, max(_VERSIONS) + 1):
            turn = [adapter for adapter in self.adapters if adapter.versions >= number]
            random.Random(number).shuffle(turn)
            for adapter in turn:
                yield adapter, number

    def _adapter(self, rng: random.Random, index: int, namespaces: list[str], so_far: list[float]) -> Adapter:
        task, metric, labels = _TASKS[min(int(rng.expovariate(1.0)), len(_TASKS) - 1)]
        words = rng.choices(WORDS, cum_weights=_WORDS_SO_FAR, k=rng.randint(20, _LONGEST_CARD))
        base = rng.choices(range(_BASES), cum_weights=_BASES_SO_FAR)[0]
        return Adapter(
            index=index,
            namespace=rng.choices(namespaces, cum_weights=so_far)[0],
            name=f"{rng.choice(WORDS)}-{rng.choice(WORDS)}-{index}",
            versions=_VERSIONS[index % len(_VERSIONS)],
            private=index % 50 == 3,
            task=task,
            metric=metric,
            labels=labels,
            base=BASES[base],
            base_fingerprint=_DIGESTS[base],
            method=_METHODS[min(int(rng.expovariate(1.5)), len(_METHODS) - 1)],
            words=" ".join(words),
            origin=int(self.size * rng.random() ** 2) if index % 4 == 1 else None,
        )
