"""The metadata of a card: the YAML between the `---` lines that README.md begins with, from strangers.

Bounded in size, number and depth, without aliases (a few lines of which can mean gigabytes), and only what JSON can
hold. Does not render cards and does not judge what the metadata says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from adapthub.adapters.errors import AdmissionError

_MOST_BYTES = 256 * 1024
_DEEPEST = 64
_MOST_VALUES = 10_000  # keys too; read in a tenth of a second
_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(?P<yaml>.*?)(?:\r?\n)?^---[ \t]*$", re.DOTALL | re.MULTILINE)


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata, empty where there is none. Raises AdmissionError, saying what is wrong and in which line."""
    found = _FRONT.search(text[: _MOST_BYTES + 16])
    if found is None:
        if text.lstrip("\ufeff \n").startswith("---") and len(text) > _MOST_BYTES:
            raise AdmissionError(f"the metadata of the card is larger than {_MOST_BYTES:,} bytes")
        return {}
    value = _load(found["yaml"])
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AdmissionError("the metadata of the card must be a map from names to values")
    return {str(key): part for key, part in value.items()}


def card_body(text: str) -> str:
    """The card without the metadata that it begins with."""
    found = _FRONT.search(text[: _MOST_BYTES + 16])
    return text if found is None else text[found.end() :]


def tags_of(card: Mapping[str, Any], *, base: str | None, task: str | None, method: str | None) -> list[str]:
    """The tags that the Hugging Face Hub's clients filter by, from the card and what is known of the newest version."""
    bases = _texts(card.get("base_model")) or ([base] if base else [])
    tags = [*_texts(card.get("library_name")), *_texts(card.get("tags"))]
    tags += [*_texts(card.get("pipeline_tag") or task), *([method] if method else [])]
    tags += [tag for one in bases for tag in (f"base_model:{one}", f"base_model:adapter:{one}")]
    for kind in ("license", "dataset"):
        tags += [f"{kind}:{text}" for text in _texts(card.get(kind) or card.get(f"{kind}s"))]
    tags += _texts(card.get("language"))
    return list(dict.fromkeys(tags))


def _load(text: str) -> Any:
    import yaml

    try:
        _check(text)
        value = yaml.load(text, Loader=_loader())
        # Dates become text, what is no JSON number becomes null: whatever is kept here is answered as JSON.
        return json.loads(json.dumps(value, default=str, skipkeys=True), parse_constant=lambda _: None)
    except yaml.YAMLError as error:
        raise AdmissionError(f"the metadata of the card is not valid YAML: {_one_line(error)}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise AdmissionError("the metadata of the card has a value that is not plain data") from error


def _check(text: str) -> None:
    """Refuse, before anything is made of them, aliases, what is nested deeper than any card, and tags: they name types that
    JSON has not. libyaml builds documents in C, by recursion, and asks nobody."""
    import yaml

    depth = values = 0
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError("tags (!name) are not allowed")
        values += isinstance(event, yaml.NodeEvent)
        if values > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} names and values are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"values in more than {_DEEPEST} others are not allowed")


@cache
def _loader() -> Any:
    """YAML's safe loader without numbers to the base of sixty, `1:30`: long ones take seconds, and no card means them."""
    import yaml

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

    class Plain(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            tag = super().resolve(kind, value, implicit)
            return self.DEFAULT_SCALAR_TAG if tag in numbers and ":" in value else tag

    return Plain


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and 0 < len(text) <= 200 and "\0" not in text]
