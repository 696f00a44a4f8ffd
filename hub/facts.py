"""What an artifact says of itself, as a hub keeps it for lists and searches.

Reads the artifact's configuration, manifest and card; measures nothing, and stores nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapthub.adapters.errors import AdmissionError
from adapthub.hub.registry import Facts, Metric

if TYPE_CHECKING:
    from adapthub.adapters.description import Description

TRAINING_SPLIT = "train"
_PREFERRED_SPLITS = ("test", "validation")
_LARGEST_INTEGER = 2**63 - 1


def read_facts(adapter: Description) -> Facts:
    """The facts of `adapter`. Raises AdmissionError for a value that no database can hold."""
    fingerprint = adapter.base_fingerprint
    facts = Facts(
        method=adapter.method if adapter.manifest is None else adapter.manifest.method,
        task=adapter.task,
        labels=adapter.labels or None,
        base=adapter.base_ref,
        base_fingerprint=None if fingerprint is None else fingerprint.digest,
        rank=adapter.rank,
        metrics=_metrics(adapter),
    )
    _check_storable(facts)
    return facts


def headlines(metrics: tuple[Metric, ...]) -> set[tuple[str, str]]:
    """The (split, name) of the one row of each metric that lists and searches use; never of the training
    split."""
    best: dict[str, str] = {}
    for metric in sorted(metrics, key=_preference):
        if metric.split != TRAINING_SPLIT:
            best.setdefault(metric.name, metric.split)
    return {(split, name) for name, split in best.items()}


def search_text(name: str, facts: Facts, message: str, card: str) -> str:
    """Everything that a search for text looks through, one thing a line."""
    known = (facts.task, facts.method, facts.base, *(facts.labels or ()), message, card)
    return "\n".join([name, *(part for part in known if part)]).replace("\0", " ")


def _metrics(adapter: Description) -> tuple[Metric, ...]:
    if adapter.manifest is None:
        return ()
    return tuple(
        Metric(split, name, measured.value, measured.low, measured.high, measured.n)
        for split, by_name in sorted(adapter.manifest.metrics.items())
        for name, measured in sorted(by_name.items())
    )


def _preference(metric: Metric) -> tuple[int, str]:
    known = metric.split in _PREFERRED_SPLITS
    return (_PREFERRED_SPLITS.index(metric.split) if known else len(_PREFERRED_SPLITS), metric.split)


def _check_storable(facts: Facts) -> None:
    texts = [facts.method, facts.task, facts.base, *(facts.labels or ())]
    texts += [text for metric in facts.metrics for text in (metric.split, metric.name)]
    for text in texts:
        if text is not None and not is_unicode(text):
            raise AdmissionError(f"{text!r} is not valid Unicode text")
    for number in (facts.rank, *(metric.n for metric in facts.metrics)):
        if number is not None and abs(number) > _LARGEST_INTEGER:
            raise AdmissionError(f"{number} does not fit 64 bits")


def is_unicode(text: str) -> bool:
    """Whether any database can hold `text`: it has no half of a surrogate pair, and no NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
