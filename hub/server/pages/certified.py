"""What an adapter is over other forms of its base, as rows of its page: its portability certificates.

They are its manifest's, written by `adapt certify`; the hub measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapthub.adapters.manifest import Certificate, DataRecord, Drift, Manifest

_MOST = 60


@dataclass(frozen=True)
class Line:
    """One metric over the base in one form."""

    form: str
    certificate: Certificate
    metric: str
    drift: Drift


@dataclass(frozen=True)
class Certified:
    """`reference`: the form that it was trained on; `on`: the rows that all lines were measured on, None where each says its
    own. `more`: lines left out."""

    reference: str
    on: DataRecord | None
    lines: Sequence[Line]
    more: int


def certified(manifest: Manifest | None) -> Certified | None:
    """None where there is no certificate."""
    if manifest is None or not manifest.certificates:
        return None
    lines = [
        Line(form, certificate, metric, drift)
        for form, certificate in manifest.certificates.items()
        for metric, drift in certificate.metrics.items()
    ]
    first = next(iter(manifest.certificates.values()))
    return Certified(first.reference, manifest.certified_on, lines[:_MOST], max(0, len(lines) - _MOST))
