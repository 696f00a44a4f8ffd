"""Conversations as a language model trains on them: rendered by a chat template, the assistant's turns learnt and no others.

A turn begins where the served model would begin to write (what the template makes of the messages before it, up to the
assistant's opening) and ends with the token that ends it. That is checked of every turn: a template under which it cannot
be so is refused. Does not read data or generate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.beginnings import tokens_of_beginnings
from adapthub.recipes.data.messages import Message
from adapthub.recipes.data.text import read_text
from adapthub.recipes.portions import portions
from adapthub.recipes.recipe import Row
from adapthub.runtime.chat_templates import BASE, CHATML, TEMPLATES, ChatStyle, render, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Tools = Sequence[Mapping[str, Any]]
_OTHER = f"Set template={CHATML}, or give a template file."


@dataclass(frozen=True)
class Conversation:
    """Messages, the functions that the assistant may call, and where they stand."""

    messages: Sequence[Message]
    tools: Tools
    where: str


@dataclass(frozen=True)
class Turns:
    """A conversation's tokens, up to the last that is learnt, and where learnt turns begin and end in them."""

    ids: list[int]
    learnt: list[Span]

    def row(self, max_length: int) -> tuple[Row, int, bool]:
        """The row that a model sees, how many of its tokens are learnt, and whether turns were cut.

        What is longer than `max_length` ends with the last turn that fits; where none does, in the middle of the first.
        """
        fitting = [end for _, end in self.learnt if end <= max_length]
        length = fitting[-1] if fitting else max_length
        ids = self.ids[:length]
        labels = [IGNORED] * len(ids)
        for start, end in self.learnt:
            labels[start:end] = ids[start:end]
        supervised = sum(label != IGNORED for label in labels)
        return {"input_ids": ids, "labels": labels}, supervised, len(self.ids) > len(ids)

    @property
    def asked(self) -> int:
        """Tokens to learn."""
        return sum(end - start for start, end in self.learnt)


@dataclass(frozen=True)
class _Rendered:
    """A conversation's text, and where learnt turns begin and end in it."""

    text: str
    learnt: list[Span]


def named_template(wanted: str) -> str:
    """BASE, a name of TEMPLATES, or the text of a template: what `wanted` is, or the file of that name has. Raises
    InvalidSettings."""
    if wanted == BASE or wanted in TEMPLATES or "{%" in wanted or "{{" in wanted:
        return wanted
    path = Path(wanted)
    if not path.is_file():
        raise InvalidSettings(
            f"template={wanted!r} is neither a file nor one of {BASE}, {', '.join(TEMPLATES)}",
            hint="Give a Jinja chat template such as chat_template.jinja.",
        )
    return read_text(path)


def choose_template(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> str:
    """What a manifest records: BASE, one of TEMPLATES by name, or a template's text, as it was `wanted`; by default BASE,
    and CHATML for a base without one. Raises InvalidSettings for the base's where it has none."""
    if wanted is None:
        return BASE if tokenizer.chat_template is not None else CHATML
    if wanted == BASE and tokenizer.chat_template is None:
        raise InvalidSettings("the base has no chat template", hint=_OTHER)
    return next((name for name, text in TEMPLATES.items() if text == wanted), wanted)


def turn_end(tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation) -> str:
    """The token that ends the assistant's turns: the last special one of the last. Raises InvalidSettings where there is
    none, for then no answer would end."""
    if template in TEMPLATES and tokenizer.eos_token is None:
        raise InvalidSettings(
            "the base's tokenizer has no end token, so no answer would end",
            hint="Choose a base with one, or set eos_token in its tokenizer_config.json.",
        )
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    rendered = _render(tokenizer, template, conversation)
    start, end = rendered.learnt[-1]
    ends = [token for token in tokenizer.tokenize(rendered.text[start:end]) if token in special]
    if not ends:
        raise InvalidSettings(
            "the chat template ends the assistant's turns with no token of its own, so no answer would end",
            hint=_OTHER,
        )
    return ends[-1]


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, template: str, end: str, conversations: Sequence[Conversation]
) -> Iterator[Turns]:
    """The tokens of each. Raises InvalidData naming the row whose turns cannot be told apart exactly."""
    last = token_id(tokenizer, end)
    rendered = ((_render(tokenizer, template, one), one.where) for one in conversations)
    for some in portions(rendered, lambda found: len(found[0].text)):
        texts = [one.text for one, _ in some]
        ends = [[border for span in one.learnt for border in span] for one, _ in some]
        found = tokens_of_beginnings(tokenizer, texts, ends)
        for (one, where), ids in zip(some, found, strict=True):
            borders = list(zip(ids[::2], ids[1::2], strict=True))
            yield _turns(tokenizer, one, borders, last, where)


def prompt_of(tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation) -> list[int]:
    """The tokens that the assistant's next message follows. Raises InvalidData."""
    return _ids(
        tokenizer, _text(tokenizer, template, conversation, len(conversation.messages), prompt=True)[0]
    )


def _turns(
    tokenizer: PreTrainedTokenizerBase,
    rendered: _Rendered,
    borders: Sequence[tuple[list[int], list[int]]],
    last: int,
    where: str,
) -> Turns:
    """`borders`: of each learnt turn, the tokens of all before it, and of all up to its end."""
    ids: list[int] = []
    learnt: list[Span] = []
    written = 0  # characters of the text that `ids` hold
    for (start, end), (before, through) in zip(rendered.learnt, borders, strict=True):
        # A token that spans a border is no token that would be generated or served: there the parts are tokenised apart.
        ids = before if before[: len(ids)] == ids else ids + _ids(tokenizer, rendered.text[written:start])
        whole = through if through[: len(ids)] == ids else ids + _ids(tokenizer, rendered.text[start:end])
        new = whole[len(ids) :]
        if last not in new:
            raise InvalidData(
                f"{where}: a turn of the assistant does not end with {tokenizer.decode([last])!r}",
                hint=_OTHER,
            )
        if whole is not through and tokenizer.decode(whole) != tokenizer.decode(through):
            raise InvalidData(f"{where}: no token begins where a turn of the assistant begins", hint=_OTHER)
        length = len(new) - new[::-1].index(last)  # a template may write a line's end behind it
        learnt.append((len(ids), len(ids) + length))
        ids, written = whole, end
    return Turns(ids[: learnt[-1][1]], learnt)


def _render(tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation) -> _Rendered:
    messages, where = conversation.messages, conversation.where
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    whole, marked = _text(tokenizer, template, conversation, len(messages), prompt=False)
    if marked and len(marked) != len(answers):
        raise InvalidData(
            f"{where}: the chat template marks {len(marked)} turns of the assistant; there are {len(answers)}",
            hint=_OTHER,
        )
    learnt = []
    for place, at in enumerate(answers):
        if messages[at].get("train") is False:
            continue
        before, _ = _text(tokenizer, template, conversation, at, prompt=True)
        if marked:
            start, end = marked[place]
        else:
            start = len(before)
            after = (
                whole
                if at + 1 == len(messages)
                else _text(tokenizer, template, conversation, at + 1, prompt=False)[0]
            )
            end = len(after) if whole.startswith(after) else -1
        if not (whole.startswith(before) and start == len(before) < end):
            raise InvalidData(
                f"{where}: under the chat template, message {at + 1} reads otherwise within the conversation than when it"
                " is to be answered, so it cannot be learnt as it is served",
                hint=f"Set turns=last to learn last answers alone, or mark it train: false. {_OTHER}",
            )
        learnt.append((start, end))
    return _Rendered(whole, learnt)


def _text(
    tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation, count: int, *, prompt: bool
) -> tuple[str, list[Span]]:
    """The first `count` messages as text, and what the template marks in it."""
    messages, tools, where = conversation.messages, conversation.tools, conversation.where
    text = ChatStyle(template).text(tokenizer, tools=bool(tools))
    assert text is not None
    for part, there in (("tools", bool(tools)), ("tool_calls", any("tool_calls" in m for m in messages))):
        if there and part not in text:
            raise InvalidData(f"{where}: there are {part}, and the chat template has none", hint=_OTHER)
    plain = [{name: value for name, value in one.items() if name != "train"} for one in messages[:count]]
    try:
        return render(tokenizer, text, plain, tools, prompt=prompt)
    except (TemplateError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidData(f"{where}: the chat template refuses it: {error}", hint=_OTHER) from error


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
