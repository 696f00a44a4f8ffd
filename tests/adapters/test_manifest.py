"""The manifest: nothing unknown is read, nothing known is lost, equal manifests are equal bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.manifest import BaseRecord, Certificate, DataRecord, Form, Manifest, Metric
from tests.adapters.saves import manifest

GOLDEN = """{
  "base": {
    "fingerprint": {
      "configuration": "%s",
      "shapes": "%s",
      "tokenizer": null,
      "weights": "%s"
    },
    "id": "acme/base",
    "revision": null
  },
  "created": "2026-01-02T03:04:05Z",
  "data": {
    "test": {
      "fingerprint": "sha256:e",
      "rows": 12,
      "source": null
    }
  },
  "files": {},
  "hardware": {},
  "hyperparameters": {
    "rank": 16
  },
  "labels": [
    "O",
    "\u4eba"
  ],
  "libraries": {},
  "method": "lora",
  "metrics": {
    "test": {
      "f1": {
        "high": 0.75,
        "low": null,
        "n": 12,
        "value": 0.5
      }
    }
  },
  "parents": [],
  "quantization": "nf4",
  "recipe": null,
  "schema_version": 1,
  "seed": null,
  "task": "token-classification"
}
"""


def test_the_schema_in_golden_bytes() -> None:
    """Version 1 as it is on disks and in hubs: a change needs a new version that still reads this one."""
    record = Manifest(
        task="token-classification",
        labels=("O", "\u4eba"),
        base=BaseRecord(id="acme/base", fingerprint=Fingerprint("a" * 64, None, "c" * 64, "d" * 64)),
        quantization="nf4",
        method="lora",
        hyperparameters={"rank": 16},
        data={"test": DataRecord(fingerprint="sha256:e", rows=12)},
        metrics={"test": {"f1": Metric(value=0.5, high=0.75, n=12)}},
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    golden = (GOLDEN % ("a" * 64, "c" * 64, "d" * 64)).encode()
    assert record.to_json() == golden
    assert Manifest.from_json(golden, "adapthub.json") == record


def test_groups_are_written_where_there_are_some() -> None:
    """Readers of before refuse a field that they do not know, so it stands only where it says something."""
    data = {
        "test": DataRecord(fingerprint="sha256:e", rows=12, groups=4),
        "train": DataRecord(fingerprint="sha256:f", rows=12),
    }
    record = manifest(data=data)
    document = record.document()["data"]
    assert document["test"]["groups"] == 4
    assert "groups" not in document["train"]
    assert data["train"].model_dump(exclude_none=True) == {"fingerprint": "sha256:f", "rows": 12}
    assert Manifest.from_json(record.to_json(), "it") == record
    assert data["test"].words == "12 rows in 4 groups (intervals are of groups) of unpublished data"
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        DataRecord(fingerprint="sha256:e", rows=12, groups=1)


def test_certificates_come_in_the_order_of_forms_whatever_order_they_are_stored_in() -> None:
    data = DataRecord(fingerprint="sha256:e", rows=12)
    one = Certificate(
        reference="float32", data=data, metrics={}, max_drift=0, mean_drift=0, changed=None, verdict="holds"
    )
    forms: list[Form] = ["merged", "bf16", "int8", "nf4"]
    record = manifest(certificates=dict.fromkeys(forms, one))
    for each in (record, Manifest.from_json(record.to_json(), "it")):
        assert [*each.certificates] == ["nf4", "int8", "bf16", "merged"]
        assert each.certified_on == data
    other = one.model_copy(update={"data": DataRecord(fingerprint="sha256:f", rows=12)})
    assert manifest(certificates={"nf4": one, "merged": other}).certified_on is None
    assert manifest().certified_on is None
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Certificate(**{**one.model_dump(), "data": data, "changed": 1.5})


def test_a_manifest_is_dated_in_whole_seconds_of_utc() -> None:
    created = Manifest(task=None, method="lora", base=manifest().base).created
    assert created.tzinfo is UTC
    assert created.microsecond == 0
    assert abs((datetime.now(UTC) - created).total_seconds()) < 60


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "labels": st.none() | st.lists(TEXT, max_size=4).map(tuple),
            "hyperparameters": st.dictionaries(TEXT, JSON, max_size=3),
            "hardware": st.dictionaries(TEXT, JSON, max_size=3),
            "seed": st.none() | st.integers(0, 2**63),
            "parents": st.lists(TEXT, max_size=2),
            "quantization": st.sampled_from(["nf4", "int8", None]),
            "created": st.datetimes(timezones=st.just(UTC)),
            "metrics": st.dictionaries(
                TEXT,
                st.dictionaries(
                    TEXT,
                    st.builds(Metric, value=FINITE, low=st.none() | FINITE, n=st.integers(0, 2**40)),
                    max_size=2,
                ),
                max_size=2,
            ),
        }
    )
)
def test_whatever_is_written_is_read_back(fields: dict[str, Any]) -> None:
    record = manifest(**fields)
    read = Manifest.from_json(record.to_json(), "it")
    assert read == record
    assert read.to_json() == record.to_json()


def edited(**fields: Any) -> bytes:
    return json.dumps({**json.loads(manifest().to_json()), **fields}).encode()


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1.5, [1]])
def test_another_schema_version_is_refused(version: object) -> None:
    with pytest.raises(AdmissionError, match=r"schema_version .* is not known; this AdaptHub reads 1"):
        Manifest.from_json(edited(schema_version=version), "it")


def test_a_missing_schema_version_is_refused() -> None:
    document = json.loads(manifest().to_json())
    del document["schema_version"]
    with pytest.raises(AdmissionError, match="schema_version"):
        Manifest.from_json(json.dumps(document).encode(), "it")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"signature": "x"}, "signature' is not a field"),
        ({"a\nb": 1}, r"a\\nb' is not a field"),
        ({"task": "singing"}, "task"),
        ({"method": None}, "method"),
        ({"labels": [1]}, r"labels\.0"),
        ({"labels": "O"}, "labels"),
        ({"seed": "7"}, "seed"),
        ({"seed": 7.0}, "seed"),
        ({"quantization": "fp4"}, "quantization"),
        ({"created": "yesterday"}, "created"),
        ({"created": "2026-01-02T03:04:05"}, "created"),
        ({"files": {"README.md": "short"}}, r"files\.README\.md"),
        ({"files": {"README.md": "a" * 65}}, r"files\.README\.md"),
        ({"base": {"id": "x"}}, r"base\.fingerprint"),
        ({"base": {"id": "x", "fingerprint": {}}}, r"base\.fingerprint"),
        ({"base": {"id": "x", "fingerprint": "abc"}}, r"base\.fingerprint"),
        ({"base": None}, "base"),
        (
            {"metrics": {"test": {"f1": {"value": 1.0, "n": 1, "unit": "%"}}}},
            r"metrics\.test\.f1\.unit' is not a field",
        ),
        ({"metrics": {"test": {"f1": {"value": "high", "n": 1}}}}, r"metrics\.test\.f1\.value"),
        ({"metrics": {"test": {"f1": {"value": 1.0, "n": -1}}}}, r"metrics\.test\.f1\.n"),
        ({"data": {"test": {"rows": 1}}}, r"data\.test\.fingerprint"),
    ],
)
def test_what_is_unknown_or_of_another_kind_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(AdmissionError, match=f"adapthub.json: '{name}") as refused:
        Manifest.from_json(edited(**fields), "adapthub.json")
    assert "\n" not in str(refused.value)
    assert "more)" not in str(refused.value)


def test_that_more_is_wrong_is_counted() -> None:
    with pytest.raises(AdmissionError, match=r"'labels' is wrong: .* \(and 1 more\)$"):
        Manifest.from_json(edited(labels="O", seed="7"), "it")


def test_equal_keys_are_refused() -> None:
    data = manifest().to_json().replace(b'"seed": 7', b'"seed": 7, "seed": 8')
    with pytest.raises(AdmissionError, match="'seed' appears twice"):
        Manifest.from_json(data, "it")


def test_not_a_number_is_no_metric() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Metric(value=float("nan"), n=1)


def test_a_manifest_does_not_change() -> None:
    record = manifest()
    with pytest.raises(ValidationError, match="frozen"):
        record.seed = 8
