"""The one object that apps use: a base model, adapters by name on it, and rows that mix them.

    runtime = Runtime("org/base", quantize="nf4")
    runtime.predict(["Ada was born in London.", "A fine film."], adapters=["acme/ner@prod", "acme/mood"])

Names are resolved once, when they are attached; from then on a name means the digest it meant then, until it is attached
again. Does not schedule, generate or serve over a network.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase, Selection
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import AdapterNotFound, InvalidExpression, InvalidInput
from adapthub.adapters.expression import parse_expression
from adapthub.adapters.memory import memory_errors
from adapthub.runtime.predict import Prediction, Reading, Row, Text, predict_row, read_text

if TYPE_CHECKING:
    from adapthub.hub.registry import Registry

# What a row runs on: a name, a PEFT folder, an expression, or None for the base alone.
Adapter = str | Path | None
# Tokens of one pass. Bounds memory; more would not be faster.
_PASS_TOKENS = 8192
_BASE_READING = Reading(None, (), "first", None)


@dataclass(frozen=True)
class _Request:
    place: int
    row: Row
    name: str | None
    selection: Selection
    reading: Reading


class Runtime:
    """Runs many adapters over one base model, mixed in one batch.

    `base` is a loaded Base or what load_base takes; `hub` is where names are pulled from, by default the embedded one.
    Safe to use from several threads: attaching does not wait for a pass except to put its result in.
    """

    def __init__(
        self,
        base: Base | str,
        quantize: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        hub: Registry | None = None,
    ) -> None:
        self.base = base if isinstance(base, Base) else load_base(base, quantize, device, dtype)
        self._adapted = AdaptedBase(self.base)
        self._hub = hub
        self._names: dict[str, str] = {}
        self._readings: dict[str, Reading] = {}
        self._uses: Counter[str] = Counter()  # of digests, by requests in flight
        self._lock = threading.Lock()

    @property
    def attached(self) -> Mapping[str, str]:
        """The digest that each attached name means: a snapshot."""
        with self._lock:
            return dict(self._names)

    def attach(self, ref: str | Path) -> str:
        """Make an adapter ready: pull and verify a reference, or read a PEFT folder. Returns its digest.

        Attaching a name again resolves it again; rows that run meanwhile keep the version they began with, and it goes
        with them if no other name means it. Raises what pulling, reading and binding raise; then nothing has changed.
        """
        artifact = self._fetch(ref)
        with self._lock:
            self._uses[artifact.digest] += 1
        try:
            digest = self._adapted.attach(artifact)
            reading = _reading(artifact, self._adapted.attached[digest].head)
            with self._lock:
                before = self._names.get(str(ref), digest)
                self._names[str(ref)] = digest
                self._readings[digest] = reading
                self._drop_unused([before])
        finally:
            self._release([artifact.digest])
        return digest

    def detach(self, ref: str | Path) -> None:
        """Forget a name or a digest, and the adapter itself once no name means it and no row uses it.

        Raises AdapterNotFound.
        """
        with self._lock:
            names = [name for name, digest in self._names.items() if str(ref) in (name, digest)]
            if not names:
                raise AdapterNotFound(
                    f"{ref} is not attached", hint=f"Attached: {', '.join(self._names) or 'nothing'}."
                )
            self._drop_unused({self._names.pop(name) for name in names})

    def predict(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[Prediction]:
        """What each text comes to under its adapter, in order.

        `adapters`: one for all rows or one a row; each a name, a PEFT folder, an expression of several
        ("0.7*acme/a + 0.3*acme/b"), or None for the base alone. What is not attached yet is attached.
        """
        requests, outputs = self._answer(texts, adapters)
        return [
            predict_row(
                request.row, output, request.reading, request.name, tuple(d for _, d in request.selection)
            )
            for request, output in zip(requests, outputs, strict=True)
        ]

    def logits(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[torch.Tensor]:
        """Each row's raw head output in float32, unpadded: [T, labels] for token classification, [labels] for text
        classification, the last hidden state [T, hidden] on the base alone."""
        return self._answer(texts, adapters)[1]

    def _fetch(self, ref: str | Path) -> Artifact:
        if isinstance(ref, Path) or Path(ref).is_dir():
            return Artifact.read(ref)
        if self._hub is None:
            from adapthub.hub import open_hub

            self._hub = open_hub()
        return self._hub.pull(ref)

    def _answer(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter]
    ) -> tuple[list[_Request], list[torch.Tensor]]:
        """Rows and their logits; the adapters that the names meant at the beginning stay until the end."""
        held: list[str] = []
        try:
            requests = self._requests(texts, adapters, held)
            return requests, self._run(requests)
        finally:
            self._release(held)

    def _requests(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter], held: list[str]
    ) -> list[_Request]:
        if isinstance(texts, str):
            raise InvalidInput("a text stands where a list of texts is wanted", hint="Write [text].")
        one = adapters is None or isinstance(adapters, (str, Path))
        given = [adapters] * len(texts) if one else list(cast(Sequence[Adapter], adapters))
        names = [None if name is None else str(name) for name in given]
        if len(names) == 1:
            names *= len(texts)
        if len(names) != len(texts):
            raise InvalidInput(
                f"{len(texts)} texts and {len(names)} adapters", hint="Give one adapter, or one a text."
            )
        chosen = {name: self._select(name, held) for name in dict.fromkeys(names)}
        requests = []
        for place, (text, name) in enumerate(zip(texts, names, strict=True)):
            selection, reading = chosen[name]
            row = read_text(text, reading, self.base, self._adapted.longest(selection), place)
            requests.append(_Request(place, row, name, selection, reading))
        return requests

    def _select(self, name: str | None, held: list[str]) -> tuple[Selection, Reading]:
        """A name or an expression as digests, added to `held`, and how it reads text."""
        if name is None:
            return (), _BASE_READING
        terms = parse_expression(name).terms
        selection = tuple((term.weight, self._hold(term.name, held)) for term in terms)
        readings = {self._readings[digest] for _, digest in selection}
        self._adapted.task_of(selection)
        if len(readings) > 1:
            raise InvalidExpression(
                f"the adapters of {name!r} differ in labels or in how they read text",
                hint="Sum adapters of one kind.",
            )
        return selection, next(iter(readings))

    def _hold(self, name: str, held: list[str]) -> str:
        """What a name means, attached now if it was not, and not detached before it is released."""
        while True:
            with self._lock:
                if name in self._names:
                    digest = self._names[name]
                    self._uses[digest] += 1
                    held.append(digest)
                    return digest
            self.attach(name)

    def _release(self, digests: Sequence[str]) -> None:
        with self._lock:
            self._uses.subtract(digests)
            self._drop_unused(digests)

    def _drop_unused(self, digests: Iterable[str]) -> None:
        """Detach what no name means and no request uses. The caller holds the lock."""
        for digest in {*digests} - set(self._names.values()):
            if self._uses[digest] == 0:
                del self._uses[digest]
                self._readings.pop(digest, None)
                if digest in self._adapted.attached:
                    self._adapted.detach(digest)

    def _run(self, requests: Sequence[_Request]) -> list[torch.Tensor]:
        """Logits in order; passes of bounded size, rows of one adapter and of like length together."""
        order = sorted(
            requests, key=lambda request: (request.selection, len(request.row.features["input_ids"]))
        )
        results: dict[int, torch.Tensor] = {}
        with memory_errors(
            "running a batch", "Send fewer or shorter texts, or load the base with quantize='nf4'."
        ):
            for batch in _batches(order):
                outputs = self._adapted.logits([r.row.features for r in batch], [r.selection for r in batch])
                results |= {request.place: output for request, output in zip(batch, outputs, strict=True)}
        return [results[place] for place in range(len(requests))]


def _batches(requests: Sequence[_Request]) -> list[list[_Request]]:
    batches: list[list[_Request]] = []
    tokens = _PASS_TOKENS
    for request in requests:
        length = len(request.row.features["input_ids"])
        if tokens + length > _PASS_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(request)
        tokens += length
    return batches


def _reading(artifact: Artifact, head: object) -> Reading:
    """How an adapter reads text: its manifest says; a plain PEFT folder gets numbered labels and first sub-tokens."""
    count = getattr(head, "labels", 0)
    labels = artifact.labels or tuple(f"LABEL_{index}" for index in range(count))
    recorded = artifact.manifest.hyperparameters if artifact.manifest is not None else {}
    length = recorded.get("max_length")
    return Reading(
        task=artifact.task,
        labels=labels,
        label_token="last" if recorded.get("label_token") == "last" else "first",
        max_length=length if isinstance(length, int) else None,
    )
