"""Bodies of OpenAI's chat completions and completions, and what they say of sampling.

Fields that OpenAI documents and this server cannot honour are refused by name; those that change nothing here (`user`,
`metadata`, `store: false`, ...) are taken. Beside OpenAI's fields there are vLLM's, for its clients' `extra_body`. Does not
read messages (openai_messages) or run anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.errors import RefusedRequest
from adapthub.runtime.server.openai_messages import Message
from adapthub.runtime.server.tool_calls import Tool, ToolChoice

_INT64 = 2**63
_MOST_MESSAGES = 10_000
_MOST_PROMPTS = 128  # texts of one request, all choices of all prompts together


def _unicode(text: str) -> str:
    """JSON can spell halves of characters. Raises UnicodeEncodeError, a ValueError."""
    text.encode()
    return text


_Text = Annotated[str, AfterValidator(_unicode)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Body):
    """`include_usage`: a last chunk without choices says what was used."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(_Body):
    """A named JSON schema; every text follows it, whether `strict` or not."""

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(_Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(_Body):
    """Any JSON object, or one by the schema `value`, as Hugging Face's client sends it."""

    type: Literal["json_object"]
    value: dict[str, Any] | None = None


class JsonSchemaFormat(_Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(_Body):
    """vLLM's: one of them. `grammar` is Lark's notation."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=1024)] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def constraint(self) -> dict[str, Any]:
        """As a field of Sampling. Raises RefusedRequest for several."""
        found: dict[str, dict[str, Any]] = {}
        if self.json_ is not None:
            found["json"] = {"json_schema": self.json_}
        if self.regex is not None:
            found["regex"] = {"regex": self.regex}
        if self.choice is not None:
            texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in self.choice)
            found["choice"] = {"grammar": f"start: {texts}"}
        if self.grammar is not None:
            found["grammar"] = {"grammar": self.grammar}
        if self.json_object:
            found["json_object"] = {"json_schema": {"type": "object"}}
        if len(found) > 1:
            raise RefusedRequest(
                f"structured_outputs has {' and '.join(found)}",
                hint="Give one of them.",
                param="structured_outputs",
            )
        return next(iter(found.values()), {})


class _Generating(_Body):
    """What both APIs have in common."""

    model: _Text = Field(max_length=2048)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    metadata: dict[str, str] | None = None
    n: int | None = Field(None, ge=1, le=128)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: _Text | Annotated[list[_Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    user: _Text | None = None

    # vLLM's
    ignore_eos: bool | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    priority: int = Field(0, ge=-(2**31), lt=2**31, description="Lower goes first, within the tenant.")
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    stop_token_ids: Annotated[list[int], Field(fail_fast=True, max_length=64)] | None = None
    structured_outputs: StructuredOutputs | None = None
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 or -1: off.")

    @property
    def choices(self) -> int:
        """How many texts a prompt is continued with."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """Raises RefusedRequest for what is well formed and not possible here."""
        if self.logit_bias:
            raise RefusedRequest(
                "logit_bias is not supported",
                hint="structured_outputs and response_format say what may be written.",
                param="logit_bias",
            )
        if self.stream_options is not None and not self.stream:
            raise RefusedRequest(
                "stream_options is for streams", hint="Set stream, or leave it out.", param="stream_options"
            )

    def samplings(
        self, max_new_tokens: int, logprobs: int | None, constraint: Mapping[str, Any]
    ) -> list[Sampling]:
        """How each choice is sampled, seeds as Runtime.generate gives them to its choices. Raises InvalidInput."""
        return [
            Sampling(
                max_new_tokens=max_new_tokens,
                min_new_tokens=self.min_tokens or 0,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=max(self.top_k or 0, 0),
                top_p=_or(self.top_p, 1.0),
                min_p=_or(self.min_p, 0.0),
                repetition_penalty=self.repetition_penalty,
                presence_penalty=_or(self.presence_penalty, 0.0),
                frequency_penalty=_or(self.frequency_penalty, 0.0),
                seed=None if self.seed is None else _int64(self.seed + choice),
                stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
                stop_token_ids=self.stop_token_ids or [],
                ignore_eos=bool(self.ignore_eos),
                logprobs=logprobs,
                **constraint,
            )
            for choice in range(self.choices)
        ]

    def constraint(self) -> dict[str, Any]:
        """The language that a text must belong to, as a field of Sampling."""
        return {} if self.structured_outputs is None else self.structured_outputs.constraint()


class ChatRequest(_Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=_MOST_MESSAGES)]
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = Field(
        None, description="false: of the calls that a text has, the first alone is answered."
    )
    prompt_cache_key: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool | None = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=128)] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def asked_tokens(self) -> int | None:
        """How many tokens may be generated, where the request says so."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives a token has in the answer; None without logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RefusedRequest("top_logprobs needs logprobs", hint="Set logprobs.", param="top_logprobs")
        if self.store:
            raise RefusedRequest(
                "store is not supported: answers are not kept", hint="Leave store out.", param="store"
            )

    def constraint(self) -> dict[str, Any]:
        """What response_format or structured_outputs asks for. Raises RefusedRequest for both."""
        ours = super().constraint()
        if self.response_format is None or isinstance(self.response_format, TextFormat):
            return ours
        if ours:
            raise RefusedRequest(
                "response_format and structured_outputs are given together",
                hint="Give one of them.",
                param="response_format",
            )
        if isinstance(self.response_format, JsonObjectFormat):
            return {"json_schema": self.response_format.value or {"type": "object"}}
        return {"json_schema": self.response_format.json_schema.schema_ or {"type": "object"}}


_Ids = Annotated[list[int], Field(fail_fast=True)]
_Prompt = Annotated[
    _Text
    | Annotated[list[_Text], Field(fail_fast=True, min_length=1, max_length=_MOST_PROMPTS)]
    | Annotated[_Ids, Field(min_length=1)]
    | Annotated[list[_Ids], Field(fail_fast=True, min_length=1, max_length=_MOST_PROMPTS)],
    Field(
        union_mode="left_to_right", description="A text, texts, the ids of a text's tokens, or of several."
    ),
]


class CompletionRequest(_Generating):
    """POST /v1/completions."""

    prompt: _Prompt
    best_of: int | None = Field(None, ge=1, le=128)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [id for id in self.prompt if isinstance(id, int)]
        return [ids] if ids else [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != self.choices:
            raise RefusedRequest(
                f"best_of is {self.best_of} and n {self.choices}: choices are not ranked",
                hint="Leave best_of out.",
                param="best_of",
            )
        if self.suffix:
            raise RefusedRequest(
                "suffix is not supported: a text is continued at its end",
                hint="Leave suffix out.",
                param="suffix",
            )
        if self.echo and self.logprobs is not None:
            raise RefusedRequest(
                "echo with logprobs is not supported: the prompt's own logprobs are not computed",
                hint="Leave one of them out.",
                param="echo",
            )
        if len(self.prompts) * self.choices > _MOST_PROMPTS:
            raise RefusedRequest(
                f"{len(self.prompts)} prompts with {self.choices} choices each",
                hint=f"At most {_MOST_PROMPTS} texts a request.",
                param="prompt",
            )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _int64(value: int) -> int:
    """The same modulo 2**64, as random numbers are seeded."""
    return (value + _INT64) % (2 * _INT64) - _INT64
