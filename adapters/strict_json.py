"""JSON from strangers: UTF-8 only, no duplicate keys, no NaN or Infinity, no lone surrogates.

Does not know what the document means. The size bound is the reader's, before the bytes come here.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import NoReturn

from adapthub.adapters.errors import AdmissionError


def parse_json(data: bytes, where: str) -> object:
    """The value in `data`. Raises AdmissionError, naming `where` and what is wrong.

    Python's own parser keeps the last of two equal keys where another parser keeps the first: two readers
    of one file would then see two configurations, so equal keys are refused.
    """
    try:
        text = data.decode("utf-8")
        whole = _whole if "-0" in text else int
        value = json.loads(text, object_pairs_hook=_unique, parse_int=whole, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _Refused as error:
        raise AdmissionError(f"{where}: {error}") from None
    except UnicodeError as error:
        raise AdmissionError(f"{where} is not UTF-8 text: {error}") from error
    except ValueError as error:
        raise AdmissionError(f"{where} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise AdmissionError(f"{where} is not valid JSON: nested too deeply") from error
    return value


def parse_json_object(data: bytes, where: str) -> dict[str, object]:
    """As parse_json, for a document that must be one JSON object."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise AdmissionError(f"{where} must be one JSON object")
    return value


class _Refused(Exception):
    """Valid for Python's parser, not for ours."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        ((duplicate, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _Refused(f"the key {duplicate!r} appears twice")
    return document


def _whole(text: str) -> int:
    if text == "-0":  # an integer to Python's parser, a fraction to others
        raise _Refused("-0 is not a whole number")
    return int(text)


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")
