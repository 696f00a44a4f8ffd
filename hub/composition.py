"""What two adapters do together: rows of one batch, a sum in one row, one merged adapter. From headers and facts alone.

The answers are those of the runtime (`adapters/selections` for sums), given before anything is attached. An answer is None
where what it hangs on was not recorded. Loads nothing, merges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapthub.adapters.lora_facts import LORA_KEY
from adapthub.adapters.names import PEFT_PREFIX

if TYPE_CHECKING:
    from adapthub.adapters.description import Description

_GENERATION = "text-generation"


@dataclass(frozen=True)
class Traits:
    """What of an adapter decides what it goes with. `base` is the digest of its base's fingerprint, `ranks` LoRA's rank by
    module, without PEFT's prefix; `whole` the modules that it brings whole: heads, and others of modules_to_save."""

    method: str
    dora: bool
    base: str | None
    task: str | None
    labels: tuple[str, ...] | None
    ranks: Mapping[str, int]
    whole: frozenset[str]


@dataclass(frozen=True)
class Answer:
    """Yes, no, or not known (None), and why in words."""

    possible: bool | None
    why: str


@dataclass(frozen=True)
class Composition:
    """Two adapters together.

    `batch`: one server runs them side by side, a row each. `sum`: one row under both, `0.5*a + 0.5*b`. `merge`: one LoRA
    that is exactly such a sum, whose rank is at most `merged_rank`. `shared` counts the modules that both change, and
    `overlap` is their share of all that either changes, 0 to 1.
    """

    batch: Answer
    sum: Answer
    merge: Answer
    shared: int
    overlap: float
    merged_rank: int


def traits_of(artifact: Description) -> Traits:
    """Read off configuration, header and manifest; no tensor is touched."""
    ranks: dict[str, int] = {}
    whole: set[str] = set()
    for key, shape in artifact.shapes.items():
        name = key.removeprefix(PEFT_PREFIX)
        match = LORA_KEY.fullmatch(name)
        if match is None:
            if artifact.method == "lora":
                whole.add(name.rpartition(".")[0])
        elif match["part"] in ("lora_A", "lora_embedding_A") and shape:
            ranks[match["module"]] = shape[0]
    fingerprint = artifact.base_fingerprint
    return Traits(
        method=artifact.method,
        dora=bool(artifact.config.get("use_dora")),
        base=None if fingerprint is None else fingerprint.digest,
        task=artifact.task,
        labels=artifact.labels,
        ranks=ranks,
        whole=frozenset(whole | set(artifact.config.get("modules_to_save") or ())),
    )


def compose(first: Traits, second: Traits) -> Composition:
    """How the two go together; the same whichever comes first."""
    base = _same_base(first, second)
    together = _together(first, second)
    either, both = {*first.ranks, *second.ranks}, first.ranks.keys() & second.ranks.keys()
    return Composition(
        batch=base,
        sum=_both(base, together),
        merge=_both(_exact(first, second), _both(base, together)),
        shared=len(both),
        overlap=len(both) / len(either) if either else 0.0,
        merged_rank=max((first.ranks.get(name, 0) + second.ranks.get(name, 0) for name in either), default=0),
    )


def _same_base(first: Traits, second: Traits) -> Answer:
    if first.base is None or second.base is None:
        return Answer(None, "the base's fingerprint is not recorded in each")
    if first.base != second.base:
        return Answer(False, "they were trained on different bases")
    return Answer(True, "the same base")


def _together(first: Traits, second: Traits) -> Answer:
    """Whether one row may be under both, wherever they fit."""
    methods = {first.method, second.method}
    if "prompt" in methods:
        return Answer(False, "a prompt-tuning adapter works alone: others would change what its tokens mean")
    if first.method == second.method == "prefix":
        return Answer(False, "two prefixes cannot be summed")
    # A plain PEFT folder need not say that it generates.
    tasks = {traits.task for traits in (first, second)}
    if len(tasks) > 1 and tasks != {None, _GENERATION}:
        return Answer(False, f"their tasks differ: {', '.join(sorted(str(task) for task in tasks))}")
    if None not in (first.labels, second.labels) and first.labels != second.labels:
        return Answer(False, "their labels differ")
    return Answer(True, "the same task")


def _exact(first: Traits, second: Traits) -> Answer:
    """Whether the sum of the two is a LoRA."""
    for traits in (first, second):
        if traits.method != "lora":
            return Answer(False, f"{traits.method} is no low-rank update of weights")
        if traits.dora:
            return Answer(False, "DoRA's update depends on the base's weights")
        if traits.whole:
            return Answer(
                False, f"a sum has no place for modules brought whole ({', '.join(sorted(traits.whole))})"
            )
    return Answer(True, "their matrices side by side are the sum")


def _both(first: Answer, second: Answer) -> Answer:
    """The worse of two answers: no, else not known, else yes."""
    return next(
        (answer for wanted in (False, None) for answer in (first, second) if answer.possible is wanted), first
    )
