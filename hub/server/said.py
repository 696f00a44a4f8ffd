"""What clients say in JSON: only text that every database and every log can hold. Knows no endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

from adapthub.hub.facts import is_unicode


class Said(BaseModel):
    """The body of a request, or a part of one. Refused is a text in it with half of a surrogate pair, or a NUL."""

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        waiting = [value]
        while waiting:
            match waiting.pop():
                case str(text) if not is_unicode(text):
                    raise ValueError("a text that is not valid Unicode, or has a NUL")
                case dict(parts):
                    waiting += [*parts, *parts.values()]
                case list(parts):
                    waiting += parts
        return value
