"""Messages of OpenAI's chat, and the conversation that a chat template makes of them.

Reads text only; images, audio and files are refused by name. Does not tokenise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapthub.runtime.server.errors import RefusedRequest

_MOST_PARTS = 4096


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Part(BaseModel):
    """A part of a message; `text` where its type is "text"."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str = Field(max_length=64)
    text: str | None = None


Content = str | Annotated[list[Part], Field(fail_fast=True, max_length=_MOST_PARTS)]


class SystemMessage(_Body):
    """What the app asks for; "developer" is "system" to templates that do not know it."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(_Body):
    """What the user said."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(_Body):
    """`arguments`: a JSON object, as text."""

    name: str
    arguments: str


class CalledTool(_Body):
    """A call that the assistant made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(_Body):
    """What the assistant said; the fields that only answers have may be sent back."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True, max_length=128)] | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(_Body):
    """What a call came to."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def conversation(messages: Sequence[Message], *, developer: bool) -> list[dict[str, Any]]:
    """As a chat template takes it: text for content, arguments of calls as objects.

    `developer`: whether the template knows that role. Raises RefusedRequest for what is not text.
    """
    return [_plain(index, message, developer) for index, message in enumerate(messages)]


def _plain(index: int, message: Message, developer: bool) -> dict[str, Any]:
    role = message.role
    if role == "developer" and not developer:
        role = "system"
    plain: dict[str, Any] = {"role": role, "content": _text(f"messages.{index}.content", message.content)}
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage) and message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(index, call)},
            }
            for call in message.tool_calls
        ]
    return plain


def _text(where: str, content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise RefusedRequest(
                f"{where} has a part of type {part.type!r}", hint="Models here read text only.", param=where
            )
    return "".join(part.text or "" for part in content)


def _arguments(index: int, call: CalledTool) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RefusedRequest(
            f"messages.{index}.tool_calls: the arguments of {call.function.name!r} are no JSON object",
            hint="Send the call as it was answered.",
            param=f"messages.{index}.tool_calls",
        )
    return arguments
