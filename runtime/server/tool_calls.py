"""Tools that a chat model may call: as clients describe them, and calls as models write them.

Three ways of writing are known: Hermes' and Qwen's `<tool_call>{...}</tool_call>`, Mistral's `[TOOL_CALLS][{...}]`, and a
bare JSON object as Llama 3's; the chat template tells which. A call that `tool_choice` asks for is a JSON object by a
schema. Does not call anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapthub.runtime.text_stream import beginning

_HERMES, _MISTRAL, _BARE = "<tool_call>", "[TOOL_CALLS]", "{"
_HERMES_END = "</tool_call>"
_BETWEEN = re.compile(r"[\s;]*")  # bare calls
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
    calls = []
    for index, tool in enumerate(tools):
        parameters = tool.function.parameters or {"type": "object"}
        arguments = _moved(parameters, f"#/anyOf/{index}/properties/arguments")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls}


def _moved(schema: Mapping[str, Any], root: str) -> Any:
    """The same where its root is at `root`: what it refers to within itself is found there."""

    def moved(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            part["$ref"] = root + reference[1:]
        return part

    return json.loads(json.dumps(schema), object_hook=moved)


def opening_of(template: str) -> str:
    """What a call begins with in texts of a model with this chat template."""
    return next((opening for opening in (_HERMES, _MISTRAL) if opening in template), _BARE)


class ToolText:
    """One text that may have calls in it, as it comes: what may be a call is held back.

    `opening`: what calls begin with; `forced`: the whole text is one. `names`: the functions that there are; what looks like
    a call of another one is text. `single`: calls behind the first are left out.
    """

    def __init__(self, opening: str, names: Sequence[str], forced: bool, single: bool = False) -> None:
        self._opening = opening
        self._names = frozenset(names)
        self._forced = forced
        self._most = 1 if single else None
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
        try:
            values, rest = self._values()
            calls = [self._call(value) for value in values]
        except (ValueError, RecursionError):
            return self._held, []
        if not calls or any(call.name not in self._names for call in calls):
            return self._held, []
        return (rest if rest.strip() else ""), calls[: self._most]

    def _opens_at(self) -> int:
        at = self._held.find(self._opening)
        if self._opening == _BARE and not (self._blank and not self._held[: max(at, 0)].strip()):
            return -1  # braces within a text
        return at

    def _values(self) -> tuple[list[Any], str]:
        """What stands where calls do, and the text around that. Raises ValueError for what is no JSON."""
        if self._opening == _HERMES and not self._forced:
            return self._hermes()
        if self._opening == _MISTRAL and not self._forced:
            written = self._held.removeprefix(_MISTRAL).lstrip()
            listed, end = _DECODER.raw_decode(written)
            return listed if isinstance(listed, list) else [listed], written[end:]
        values, text, at = [], self._held.strip(), 0
        while at < len(text):
            value, end = _DECODER.raw_decode(text, at)
            values.append(value)
            at = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]  # it matches everywhere
        return values, ""

    def _hermes(self) -> tuple[list[Any], str]:
        values, around, after = [], [], 0
        while (opens := self._held.find(_HERMES, after)) >= 0:
            around.append(self._held[after:opens])
            begins, ends = opens + len(_HERMES), self._held.find(_HERMES_END, opens)
            last = ends if ends >= 0 else len(self._held)  # the end may be left out at the end of the text
            values.append(json.loads(self._held[begins:last].strip()))
            after = last + len(_HERMES_END)
        return values, "".join([*around, self._held[after:]])

    @staticmethod
    def _call(value: Any) -> ToolCall:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError("no call")
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            raise ValueError("no arguments")
        return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))
