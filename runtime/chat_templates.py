"""How an adapter of conversations was trained to be asked: by which chat template, and what ends its turn.

Training and serving render conversations by these. An adapter's template is the base's, one of TEMPLATES by name, or a
text of its own; the last is for training alone: a server runs no program that came with an adapter, and a template is one.
Does not tokenise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapthub.adapters.artifact import Artifact
    from adapthub.runtime.sampling import Sampling

BASE, CHATML = "base", "chatml"

# OpenAI's ChatML with Hermes' tools, as Qwen 2.5 writes it; a turn ends with the tokenizer's own end, so it works with any.
_CHATML = """\
{%- set first = messages[0].content if messages[0].role == 'system' else '' %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + (first + '\\n\\n' if first else '') }}
    {{- 'You may call functions. They are described as JSON between <tools> and </tools>:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>\\n\\nWrite each call as JSON with its name and arguments between <tool_call> and </tool_call>:\\n' }}
    {{- '<tool_call>\\n{"name": "...", "arguments": {...}}\\n</tool_call>' + eos_token + '\\n' }}
{%- elif first %}
    {{- '<|im_start|>system\\n' + first + eos_token + '\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n' if message.content or not loop.first else '' }}
            {{- '<tool_call>\\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- eos_token }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n' if loop.previtem.role != 'tool' else '' }}
        {{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {{- eos_token if loop.last or loop.nextitem.role != 'tool' else '' }}
        {{- '\\n' }}
    {%- elif message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + eos_token + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

TEMPLATES: Mapping[str, str] = {CHATML: _CHATML}
"""The templates that come with AdaptHub, by name."""


@dataclass(frozen=True)
class ChatStyle:
    """`template`: BASE, one of TEMPLATES, or the text of another. `turn_end`: the token that ends an answer; None where
    nothing was trained on conversations, and the base's own ends are all."""

    template: str = BASE
    turn_end: str | None = None

    def text(self, tokenizer: PreTrainedTokenizerBase, tools: bool) -> str | None:
        """The template itself; None where the base has none."""
        if self.template != BASE:
            return TEMPLATES.get(self.template, self.template)
        return (
            None
            if tokenizer.chat_template is None
            else tokenizer.get_chat_template(tools=[] if tools else None)
        )

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The token that ends an answer, beside the base's own."""
        return [] if self.turn_end is None else [token_id(tokenizer, self.turn_end)]

    def ending(self, sampling: Sampling, tokenizer: PreTrainedTokenizerBase) -> Sampling:
        """The same, where an answer also ends with its turn."""
        ends = self.ends(tokenizer)
        if not ends or sampling.ignore_eos:
            return sampling
        return replace(sampling, stop_token_ids=[*sampling.stop_token_ids, *ends])


BASE_STYLE = ChatStyle()


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Of one token by its text."""
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def style_of(artifacts: Iterable[Artifact]) -> ChatStyle:
    """How adapters that run together want to be asked; those that do not say are asked as the base is.

    Raises InvalidInput where two want it differently, and for a template that is neither the base's nor of TEMPLATES.
    """
    styles = {_style(artifact) for artifact in artifacts} - {BASE_STYLE}
    if len(styles) > 1:
        raise InvalidInput(
            "these adapters were trained with different chat templates", hint="Send the prompt as a text."
        )
    style = next(iter(styles), BASE_STYLE)
    if style.template != BASE and style.template not in TEMPLATES:
        raise InvalidInput(
            "this adapter was trained with a chat template of its own, which is not run here",
            hint="Send the prompt as a text, or train with the base's template or template=chatml.",
        )
    return style


def render(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    prompt: bool,
) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as text, with the assistant's next opening where `prompt`; and the spans of characters that the
    template marks as the assistant's ({% generation %}), if it marks any. Raises jinja2's TemplateError and what templates
    raise."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[[dict(message) for message in messages]],
        tools=[dict(tool) for tool in tools] or None,
        chat_template=template,
        add_generation_prompt=prompt,
        return_assistant_tokens_mask="{% generation" in template.replace("{%-", "{%"),
        **cast("dict[str, Any]", tokenizer.special_tokens_map),
    )
    texts, spans = rendered
    return texts[0], [tuple(span) for span in spans[0]] if spans else []


def _style(artifact: Artifact) -> ChatStyle:
    settings = artifact.manifest.hyperparameters if artifact.manifest is not None else {}
    template, end = settings.get("template"), settings.get("turn_end")
    if not isinstance(template, str):
        return BASE_STYLE
    return ChatStyle(template, end if isinstance(end, str) else None)
