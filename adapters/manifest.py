"""What AdaptHub records beside PEFT's configuration: `adapthub.json`.

Version 1 of the schema. A field or a schema version that is not known here is refused by name: a newer
AdaptHub may mean something by it that matters. Does not read folders and does not compute digests or
metrics.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.strict_json import parse_json_object
from adapthub.adapters.tasks import Task

SCHEMA_VERSION: Literal[1] = 1
Form = Literal["float32", "nf4", "int8", "bf16", "merged"]
_ORDER = get_args(Form)
"""How a base is held: in these numbers, or in float32 with the adapter merged into its weights."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _fingerprint(value: object) -> Fingerprint:
    if isinstance(value, Fingerprint):
        return value
    if not isinstance(value, dict):
        raise ValueError("a fingerprint is an object")
    return Fingerprint.from_dict(value)


FingerprintField = Annotated[
    Fingerprint, PlainValidator(_fingerprint), PlainSerializer(lambda value: value.to_dict())
]


class Record(BaseModel):
    """A part of the manifest: immutable, and nothing in it is converted or ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseRecord(Record):
    """The base model that the adapter was trained on; `id` is the reference it was loaded by."""

    id: str
    revision: str | None = None
    fingerprint: FingerprintField


class DataRecord(Record):
    """One split of the data: a digest over its rows in order, their count, and where they came from. `groups`: of how many
    the rows are (patients, speakers), where intervals were made by drawing whole groups."""

    fingerprint: str
    rows: Annotated[int, Field(ge=0)]
    source: str | None = None
    groups: Annotated[int, Field(ge=2)] | None = None

    @property
    def words(self) -> str:
        """For people: how many rows of what."""
        return f"{self.rows:,} rows{self.in_groups} of {self.source or 'unpublished data'}"

    @property
    def in_groups(self) -> str:
        """For people, behind the rows: in how many groups; nothing where each stands alone."""
        return "" if self.groups is None else f" in {self.groups:,} groups (intervals are of groups)"

    @model_serializer(mode="wrap")
    def _document(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = plain(self)
        if self.groups is None:  # readers that came before it refuse a field that they do not know
            document.pop("groups", None)
        return document


class Metric(Record):
    """A measured value with the bounds of its 95 % interval, over `n` examples."""

    value: float
    low: float | None = None
    high: float | None = None
    n: Annotated[int, Field(ge=0)]


class Drift(Record):
    """A metric over the base as the adapter was trained on it, over another form of it, and the difference with the bounds
    of its paired 95 % interval, over `n` examples that are the same."""

    reference: float
    value: float
    difference: float
    low: float
    high: float
    n: Annotated[int, Field(ge=0)]


class Certificate(Record):
    """What an adapter is over another form of its base, against `reference`, the form that it was trained on.

    `max_drift`, `mean_drift`: largest and mean absolute difference of outputs, as shares of the largest output; `changed`:
    the share of examples with another decision, None where none was asked for. `verdict`: "worse" where a headline metric is
    clearly so.
    """

    reference: Form
    data: DataRecord
    metrics: dict[str, Drift]
    max_drift: Annotated[float, Field(ge=0)]
    mean_drift: Annotated[float, Field(ge=0)]
    changed: Annotated[float, Field(ge=0, le=1)] | None
    verdict: Literal["holds", "worse"]


def _by_form(certificates: dict[Form, Certificate]) -> dict[Form, Certificate]:
    return {form: certificates[form] for form in sorted(certificates, key=_ORDER.index)}


Certificates = Annotated[dict[Form, Certificate], AfterValidator(_by_form)]
"""Certificates in the order of Form: stored documents are sorted by name."""


class Manifest(Record):
    """The manifest of one adapter.

    `files` maps every other file of the folder to its sha256; writing the artifact fills it in.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Task | None
    labels: tuple[str, ...] | None = None
    base: BaseRecord
    quantization: Literal["nf4", "int8"] | None = None
    recipe: str | None = None
    method: str
    hyperparameters: dict[str, JsonValue] = {}
    seed: int | None = None
    data: dict[str, DataRecord] = {}
    metrics: dict[str, dict[str, Metric]] = {}
    libraries: dict[str, str] = {}
    hardware: dict[str, JsonValue] = {}
    parents: list[str] = []
    certificates: Certificates = {}
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    files: dict[str, Sha256] = {}

    @property
    def certified_on(self) -> DataRecord | None:
        """The rows that all certificates were measured on; None where there are several such, or none."""
        found = [certificate.data for certificate in self.certificates.values()]
        return found[0] if len({data.fingerprint for data in found}) == 1 else None

    def document(self) -> dict[str, Any]:
        """What the file says, as JSON's own kinds."""
        document = self.model_dump(mode="json")
        if not self.certificates:  # readers that came before them refuse a field that they do not know
            del document["certificates"]
        return document

    def to_json(self) -> bytes:
        """The file's bytes: UTF-8, sorted keys, a newline at the end. Equal manifests give equal bytes."""
        text = json.dumps(self.document(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Parse `data`; AdmissionError names the field that is unknown, missing or of the wrong kind."""
        document = parse_json_object(data, where)
        version = document.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise AdmissionError(
                f"{where}: schema_version {version!r} is not known; this AdaptHub reads {SCHEMA_VERSION}",
                hint="Update adapthub.",
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise AdmissionError(f"{where}: {first_error(error, 'a manifest')}") from error


def first_error(error: ValidationError, what: str) -> str:
    """The first thing that is wrong with `what`, in words that name the field, on one line whatever that is called."""
    errors: list[Any] = [*error.errors(include_url=False)]
    field = ".".join(map(str, errors[0]["loc"]))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if errors[0]["type"] == "extra_forbidden":
        return f"{field!r} is not a field of {what}{more}"
    return f"{field!r} is wrong: {' '.join(errors[0]['msg'].split())}{more}"
