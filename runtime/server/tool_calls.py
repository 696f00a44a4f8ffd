"""Tools that a chat model may call: as clients describe them, and calls as models write them.

Three ways of writing are known: Hermes' and Qwen's `<tool_call>{...}</tool_call>`, Mistral's `[TOOL_CALLS][{...}]`, and a
bare JSON object as Llama 3's; the chat template tells which. A call that `tool_choice` asks for is a JSON object by a
schema. Does not call anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapthub.runtime.text_stream import beginning

_HERMES, _MISTRAL, _BARE = "<tool_call>", "[TOOL_CALLS]", "{"
_HERMES_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_DECODER = json.JSONDecoder()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Function(_Body):
    """`parameters`: a JSON schema of the arguments."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Body):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Body):
    """Which function."""

    name: str


class NamedTool(_Body):
    """Call this one."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote; `arguments` is a JSON object, as text."""

    name: str
    arguments: str


def schema_of_call(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON schema of a call of one of these."""
    definitions: dict[str, Any] = {}
    calls = []
    for tool in tools:
        parameters = dict(tool.function.parameters or {"type": "object"})
        definitions |= parameters.pop("$defs", {})  # what it refers to is looked for at the root
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return schema | ({"$defs": definitions} if definitions else {})


def opening_of(template: str) -> str:
    """What a call begins with in texts of a model with this chat template."""
    return next((opening for opening in (_HERMES, _MISTRAL) if opening in template), _BARE)


class ToolText:
    """One text that may have calls in it, as it comes: what may be a call is held back.

    `opening`: what calls begin with; `forced`: the whole text is one. `names`: the functions that there are; what looks like
    a call of another one is text.
    """

    def __init__(self, opening: str, names: Sequence[str], forced: bool) -> None:
        self._opening = opening
        self._names = frozenset(names)
        self._forced = forced
        self._held = ""
        self._blank = True  # so far

    def push(self, new: str) -> str:
        """What is text for certain."""
        self._held += new
        if self._forced:
            return ""
        at = self._opens_at()
        kept = len(self._held) - at if at >= 0 else beginning(self._held, (self._opening,))
        out = self._held[: len(self._held) - kept]
        self._held = self._held[len(out) :]
        self._blank = self._blank and not out.strip()
        return out

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The rest of the text, and the calls."""
        calls = self._calls()
        return ("" if calls else self._held), calls

    def _opens_at(self) -> int:
        at = self._held.find(self._opening)
        if self._opening == _BARE and not (self._blank and not self._held[: max(at, 0)].strip()):
            return -1  # braces within a text
        return at

    def _calls(self) -> list[ToolCall]:
        try:
            calls = [self._call(value) for value in self._values()]
        except (ValueError, RecursionError):
            return []
        return calls if all(call.name in self._names for call in calls) else []

    def _values(self) -> list[Any]:
        if self._opening == _HERMES and not self._forced:
            return [json.loads(text) for text in _HERMES_CALL.findall(self._held)]
        if self._opening == _MISTRAL and not self._forced:
            listed, _ = _DECODER.raw_decode(self._held.removeprefix(_MISTRAL).lstrip())
            return listed if isinstance(listed, list) else [listed]
        values, rest = [], self._held.strip()
        while rest:
            value, end = _DECODER.raw_decode(rest)
            values.append(value)
            rest = rest[end:].lstrip(" \n;")
        return values

    @staticmethod
    def _call(value: Any) -> ToolCall:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError("no call")
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            raise ValueError("no arguments")
        return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))
