"""Portability certificates as a table: what an adapter is over other forms of its base. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapthub.cli.output import show_table

if TYPE_CHECKING:
    from adapthub.adapters.manifest import Certificate, Form

_COLUMNS = (
    "base",
    "verdict",
    "metric",
    "trained",
    "here",
    "change",
    "95 %",
    "largest_drift",
    "mean_drift",
    "changed",
    "n",
)


def show_certificates(certificates: Mapping[Any, Certificate]) -> None:
    """By form: a row a metric."""
    show_table([row for form, one in certificates.items() for row in _rows(form, one)], _COLUMNS)


def certificates_of(manifest: Mapping[str, Any] | None) -> Mapping[Form, Certificate]:
    """What a stored manifest says, by form; none where it says nothing that can be read."""
    from pydantic import TypeAdapter, ValidationError

    from adapthub.adapters.manifest import Certificates

    try:
        found = (manifest or {}).get("certificates", {})
        certificates: Mapping[Form, Certificate] = TypeAdapter(Certificates).validate_json(json.dumps(found))
        return certificates
    except ValidationError:
        return {}


def _rows(form: str, one: Certificate) -> list[dict[str, Any]]:
    """A row a metric; what holds of the whole form stands in each."""
    return [
        {
            "base": form,
            "verdict": one.verdict,
            "metric": name,
            "trained": f"{drift.reference:.4f}",
            "here": f"{drift.value:.4f}",
            "change": f"{drift.difference:+.4f}",
            "95 %": f"[{drift.low:+.4f}, {drift.high:+.4f}]",
            "largest_drift": f"{one.max_drift:.1e}",
            "mean_drift": f"{one.mean_drift:.1e}",
            "changed": None if one.changed is None else f"{one.changed:.2%}",
            "n": drift.n,
        }
        for name, drift in one.metrics.items()
    ]
