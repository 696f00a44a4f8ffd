"""What is odd in the labels of texts, each said once of all examples, which may come in parts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Example

_SEPARATORS = (";", "|", ",")
_KIND = {True: "a list of labels", False: "one label"}


class OddLabels:
    """Examples with `label`, a str, or `labels`, a list of such: labels that are numbers and names, or differ in large and
    small letters or in how Unicode writes them alone, or are several in one text, and examples without any. `columns`: the
    labels that there should be, if that is known."""

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self._columns = columns
        # The first label, and where it stands, of whole numbers (True) and of names; and of each in small letters.
        self._kinds: dict[bool, tuple[str, str]] = {}
        self._spellings: dict[str, tuple[str, str]] = {}
        self._alike: str | None = None
        self._seen: set[str] = set()
        self._are_lists: bool | None = None
        self._first = ""
        self._rows = 0
        self._empty, self._first_empty = 0, ""

    def add(self, examples: Sequence[Example]) -> None:
        """Look at some. Raises InvalidData where some have lists and others have not."""
        for example in examples:
            is_list = "labels" in example.fields
            if self._are_lists is None:
                self._are_lists, self._first = is_list, example.source
            if is_list != self._are_lists:
                raise InvalidData(
                    f"{example.source}: there is {_KIND[is_list]}, and in {self._first} {_KIND[not is_list]}",
                    hint="Give every row a list; one without labels is an empty list.",
                )
            labels = example.fields["labels"] if is_list else [example.fields["label"]]
            for label in labels:
                if label not in self._seen:
                    self._seen.add(label)
                    self._look(label, example.source)
            if not labels:
                self._empty += 1
                self._first_empty = self._first_empty or example.source
        self._rows += len(examples)

    def notes(self) -> Iterator[str]:
        """What is odd in those that were added."""
        yield from (f"label column {name!r} has no 1" for name in self._columns if name not in self._seen)
        if len(self._kinds) == 2:
            (number, there), (name, here) = self._kinds[True], self._kinds[False]
            yield (
                f"labels are numbers and names, each a class of its own: {number!r} ({there}) beside"
                f" {name!r} ({here})"
            )
        if self._alike is not None:
            yield self._alike
        if not self._are_lists and (found := _several_in_one(self._seen)):
            one, separator = found
            yield (
                f"label {one!r} is one class, though its parts are labels, too: classify reads several at once with"
                f" label_separator={separator}"
            )
        if self._empty:
            yield f"{self._empty} of {self._rows} rows have no label, the first at {self._first_empty}"

    def _look(self, label: str, source: str) -> None:
        """At a label that was not there before. Numbers beside names are two sources that were put together, often; labels
        alike are one class that was written in two ways."""
        self._kinds.setdefault(label.removeprefix("-").isdecimal(), (label, source))
        before, there = self._spellings.setdefault(_alike(label), (label, source))
        if before != label and self._alike is None:
            same = unicodedata.normalize("NFC", before) == unicodedata.normalize("NFC", label)
            one, other = map(ascii if same else repr, (before, label))
            self._alike = f"{one} ({there}) and {other} ({source}) are two labels"


def _several_in_one(labels: set[str]) -> tuple[str, str] | None:
    """A label whose parts are labels, each by itself or as a part of others, and what parts them."""
    for separator in _SEPARATORS:
        parts = {label: [part.strip() for part in label.split(separator)] for label in labels}
        others = Counter(part for several in parts.values() for part in several)
        for label in sorted(labels):
            if len(parts[label]) > 1 and all(part and others[part] > 1 for part in parts[label]):
                return label, separator
    return None


def _alike(label: str) -> str:
    """Equal for labels that people take for the same, such as with an é of one character and of two."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())
