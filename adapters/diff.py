"""What changed between two adapters: weights module by module, configuration, manifest, metrics, files.

Reads both artifacts and no base. Of DoRA the magnitudes and the low-rank part are compared each by itself: the update that
they make together depends on the base's weights. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapthub.adapters.manifest import Manifest, Metric
from adapthub.adapters.updates import Comparison, check_work, compare, updates_of

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact

# What every version has anew, what is shown as files, and what is compared as metrics.
_NOT_COMPARED = frozenset({"created", "files", "metrics", "schema_version"})


@dataclass(frozen=True)
class FieldChange:
    """A field with two values, as JSON has them; None where it is not set. Fields inside others are joined by dots."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class MetricChange:
    """A metric of one split, None where it was not measured."""

    split: str
    name: str
    before: Metric | None
    after: Metric | None

    @property
    def apart(self) -> bool | None:
        """Whether the two 95 % intervals have no value in common; None where one is not known."""
        bounds = [
            (metric.low, metric.high)
            for metric in (self.before, self.after)
            if metric is not None and metric.low is not None and metric.high is not None
        ]
        if len(bounds) < 2:
            return None
        return bool(bounds[0][1] < bounds[1][0] or bounds[1][1] < bounds[0][0])


@dataclass(frozen=True)
class FileChange:
    """A file that was added (`before` is None), removed (`after` is None) or changed; sizes in bytes."""

    name: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Difference:
    """Everything that changed from one adapter to another.

    `modules` has every module, or tensor outside LoRA's products, of either, those that changed most first; the other
    fields have what differs only. `manifest` is None where either adapter has no manifest.
    """

    before: str
    after: str
    modules: Mapping[str, Comparison]
    configuration: tuple[FieldChange, ...]
    manifest: tuple[FieldChange, ...] | None
    metrics: tuple[MetricChange, ...]
    files: tuple[FileChange, ...]


def difference(before: Artifact, after: Artifact) -> Difference:
    """Compare two verified artifacts; `before` and `after` in the result are their digests.

    Raises TensorMismatch for a value that is not finite, UnsupportedAdapter where the ranks are so large that comparing
    would take minutes, IntegrityError where an adapter changed since it was read.
    """
    both = before.manifest is not None and after.manifest is not None
    return Difference(
        before=before.digest,
        after=after.digest,
        modules=_modules(before, after),
        configuration=_fields(before.config, after.config),
        manifest=_fields(_recorded(before.manifest), _recorded(after.manifest)) if both else None,
        metrics=tuple(_metrics(before.manifest, after.manifest)),
        files=tuple(_files(before, after)),
    )


def difference_record(found: Difference) -> dict[str, Any]:
    """The same as JSON with stable keys: `modules` is a list, those that changed most first, and says of each whether it
    `changed` by more than rounding."""
    return {
        "before": found.before,
        "after": found.after,
        "modules": [
            {"module": name, **asdict(comparison), "changed": comparison.changed}
            for name, comparison in found.modules.items()
        ],
        "configuration": [asdict(change) for change in found.configuration],
        "manifest": None if found.manifest is None else [asdict(change) for change in found.manifest],
        "metrics": [_metric_record(change) for change in found.metrics],
        "files": [asdict(change) for change in found.files],
    }


def _metric_record(change: MetricChange) -> dict[str, Any]:
    return {
        "split": change.split,
        "name": change.name,
        "before": None if change.before is None else change.before.model_dump(),
        "after": None if change.after is None else change.after.model_dump(),
        "apart": change.apart,
    }


def _modules(before: Artifact, after: Artifact) -> dict[str, Comparison]:
    first, second = updates_of(before), updates_of(after)
    pairs = {name: (first.get(name), second.get(name)) for name in {**first, **second}}
    check_work(pairs)
    compared = {name: compare(*pair) for name, pair in pairs.items()}
    return dict(sorted(compared.items(), key=lambda item: (-_change(item[1]), item[0])))


def _change(comparison: Comparison) -> float:
    """How much changed; what does not compare comes first."""
    return float("inf") if comparison.difference is None else comparison.difference


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    first, second = dict(_flat(before)), dict(_flat(after))
    names = sorted({*first, *second})
    changes = (FieldChange(name, first.get(name), second.get(name)) for name in names)
    return tuple(change for change in changes if change.before != change.after)


def _flat(fields: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            # PEFT keeps some lists as sets: in no order.
            yield f"{path}{name}", sorted(value) if name in _SETS and isinstance(value, list) else value


_SETS = frozenset({"target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"})


def _recorded(manifest: Manifest | None) -> dict[str, Any]:
    return {} if manifest is None else manifest.model_dump(mode="json", exclude=set(_NOT_COMPARED))


def _metrics(before: Manifest | None, after: Manifest | None) -> Iterator[MetricChange]:
    first, second = (
        {
            (split, name): metric
            for split, by_name in manifest.metrics.items()
            for name, metric in by_name.items()
        }
        if manifest is not None
        else {}
        for manifest in (before, after)
    )
    for split, name in sorted({*first, *second}):
        change = MetricChange(split, name, first.get((split, name)), second.get((split, name)))
        if change.before != change.after:
            yield change


def _files(before: Artifact, after: Artifact) -> Iterator[FileChange]:
    for name in sorted({*before.files, *after.files}):
        first, second = before.files.get(name), after.files.get(name)
        if first != second:
            yield FileChange(name, *(None if file is None else file.size for file in (first, second)))
