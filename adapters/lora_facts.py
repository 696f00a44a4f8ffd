"""What a LoRA's keys and configuration say of a module: which tensors are its parts, their rank, the scale of their product.

As PEFT 0.21 reads them, without PEFT, whose import takes seconds. Reads no tensors. The patterns must have been admitted.
They are a stranger's and meet every module of a stranger's adapter: names are looked up, expressions are matched by RE2,
which takes time in proportion to the name, and how much of both one adapter may take is bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.patterns import is_name

LORA_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<parameter>weight|bias))?"
)
"""A part of LoRA, by its key without PEFT's prefix: the module, the part, weight or bias."""

TOKENS = ".token_adapter.trainable_tokens_delta"
"""The end of the key of an embedding's trained rows, after its module."""

PEFT_RANK = 8
PEFT_ALPHA = 8
"""What PEFT takes where a configuration has no r or lora_alpha."""

MAX_WORK = 8 * 10**7
"""Characters of expressions times characters of modules' names that one adapter may have matched: a tenth of a second at
worst. A LoRA on 128 experts in 48 layers has a million characters of names, one on all of 126 layers 40,000."""

_LOOKED_UP = 2000  # of the same, that looking up one name takes as long as
_EXPRESSION_BYTES = 2**20  # of memory that RE2 may take for one


class ConfiguredLora:
    """The ranks and scales that the admitted `config` gives to modules of the task model, by their names.

    Every method raises AdmissionError for an expression that RE2 does not read, and for more matching than MAX_WORK.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._ranks = _ByPattern("rank_pattern", config)
        self._alphas = _ByPattern("alpha_pattern", config)

    def rank(self, module: str) -> int:
        """Of the module's matrices."""
        found = self._ranks.value(module)
        return int(self._config.get("r", PEFT_RANK) if found is None else found)

    def scale(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) under rsLoRA."""
        rank, found = self.rank(module), self._alphas.value(module)
        alpha = float(self._config.get("lora_alpha", PEFT_ALPHA) if found is None else found)
        return alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank


def trained_tokens(module: str, config: Mapping[str, Any]) -> list[int]:
    """Which tokens' rows the adapter brings for the embedding `module`, in their order; none if it names none."""
    named = config.get("trainable_token_indices") or []
    if isinstance(named, list):
        return named
    return next((ids for name, ids in named.items() if module == name or module.endswith(f".{name}")), [])


class _ByPattern:
    """The values of one field, rank_pattern or alpha_pattern: that of the first pattern, in the file's order, that a
    module's name fits whole or from after one of its dots on."""

    def __init__(self, field: str, config: Mapping[str, Any]) -> None:
        patterns: Mapping[str, float] = config.get(field) or {}
        self._field = field
        self._values = list(patterns.values())
        self._names, self._whole_names = _Names(), _Names()
        self._expressions: list[tuple[int, str]] = []
        for place, pattern in enumerate(patterns):
            if not is_name(pattern):
                self._expressions.append((place, pattern))
            elif pattern.startswith("^"):
                self._whole_names.add(pattern[1:].removesuffix("$"), place)
            else:
                self._names.add(pattern.removesuffix("$"), place)
        self._characters = sum(len(pattern) for _, pattern in self._expressions)
        self._work = 0
        self._found: dict[str, int | None] = {}

    def value(self, module: str) -> float | None:
        """None where no pattern is for the module."""
        if not self._values:
            return None
        if module not in self._found:
            self._found[module] = min(self._places(module), default=None)
        place = self._found[module]
        return None if place is None else self._values[place]

    def _places(self, module: str) -> Iterator[int]:
        for start in self._names.starts(module):
            self._spend(_LOOKED_UP * self._names.lookups(len(module) - start))
            yield from self._names.places(module[start:])
        self._spend(_LOOKED_UP * self._whole_names.lookups(len(module)))
        yield from self._whole_names.places(module)
        if self._expressions:
            self._spend(self._characters * len(module))
            fits = (place for place, expression in self._compiled if expression.match(module) is not None)
            if (first := next(fits, None)) is not None:
                yield first

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise AdmissionError(
                f"{self._field} of adapter_config.json takes too long to be matched with so many modules",
                hint="Write names of modules in it, as few as say what r and lora_alpha do not.",
            )

    @cached_property
    def _compiled(self) -> list[tuple[int, Any]]:
        import re2

        options = re2.Options()
        options.max_mem = _EXPRESSION_BYTES
        options.log_errors = False
        compiled = []
        for place, pattern in self._expressions:
            try:
                compiled.append((place, re2.compile(rf"(?:.*\.)?(?:{pattern})$", options)))
            except re2.error as error:
                raise AdmissionError(
                    f"{self._field} of adapter_config.json: {pattern!r:.100} cannot be matched in bounded time",
                    hint="Write names of modules in it.",
                ) from error
        return compiled


class _Names:
    """Patterns that are names, by place. A dot in one stands for any character, so those with dots at the same places are
    kept together, and a text is looked up among them without what it has there."""

    def __init__(self) -> None:
        self._by_dots: dict[int, dict[tuple[int, ...], dict[tuple[str, ...], int]]] = {}

    def add(self, name: str, place: int) -> None:
        """The first of equal ones counts."""
        pieces = tuple(name.split("."))
        ends = tuple(accumulate(map(len, pieces), lambda end, length: end + 1 + length))
        same = self._by_dots.setdefault(len(name), {}).setdefault(ends, {})
        same.setdefault(pieces, place)

    def starts(self, module: str) -> list[int]:
        """Where what is left of a module's name, whole or from after one of its dots on, is as long as a name here."""
        size = len(module)
        if len(self._by_dots) < module.count("."):
            ends = (size - length for length in self._by_dots if length <= size)
            return [start for start in ends if start == 0 or module[start - 1] == "."]
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", module)))
        return [start for start in starts if size - start in self._by_dots]

    def lookups(self, length: int) -> int:
        """How many a text of so many characters takes."""
        return len(self._by_dots.get(length, ()))

    def places(self, text: str) -> Iterator[int]:
        """Of the names that `text` fits."""
        for ends, same in self._by_dots.get(len(text), {}).items():
            starts = (0, *(end + 1 for end in ends))
            place = same.get(tuple(text[start:end] for start, end in zip(starts, ends, strict=False)))
            if place is not None:
                yield place
