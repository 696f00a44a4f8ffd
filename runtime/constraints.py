"""Texts that must follow a JSON schema, a regular expression or a Lark grammar: which tokens may come next.

Built on llguidance (Rust): lexer and Earley parser over the tokenizer's trie, a mask of the vocabulary a step. Compiling
may take a second: do it off the engine's thread. Does not choose tokens (sampling does).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from adapthub.adapters.errors import InvalidInput, SamplingError
from adapthub.runtime.sampling import GRAMMARS, Sampling

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# White space between JSON's tokens. Bounded, or a model may write blanks until its tokens are spent.
_JSON_SPACE = r"[\x20\x0A\x0D\x09]{1,64}"
_PICTURE = re.compile(r"\n\s*\d+ \||\n<")
_LONGEST_REASON = 200

_TOKENIZERS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[frozenset[int], LLTokenizer]] = (
    WeakKeyDictionary()
)
_LOCK = threading.Lock()


class GrammarConstraint:
    """One choice's place in its grammar. Not shared between choices: compile one each. Nor copied: a copy of a matcher
    shares its lexer, whose states are bounded, so that one text would use up another's."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        """The text is whole and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> torch.Tensor:
        """The tokens that may come next: bool [vocabulary]. End tokens are among them where the text may end.

        Raises SamplingError where nothing can follow, or the parser's limits are reached.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()

    def advance(self, token_id: int) -> None:
        """Move behind a token that was allowed. Raises SamplingError for one that was not."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise SamplingError(
                f"the grammar leads nowhere: {_reason(self._matcher)}",
                hint="Write a simpler grammar, or one that some text matches.",
            )


def compile_constraint(
    sampling: Sampling, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]
) -> GrammarConstraint | None:
    """The constraint that `sampling` asks for, at the beginning of its text; None where it asks for none.

    `eos_ids` (not empty) are the tokens that may end the text. Raises InvalidInput for a grammar that does not parse or
    that no text matches, and for a tokenizer that cannot be constrained. Safe to call from several threads.
    """
    field = next((name for name in GRAMMARS if getattr(sampling, name) is not None), None)
    if field is None:
        return None
    try:
        grammar = _grammar(sampling)
    except (ValueError, TypeError, RecursionError) as error:  # not JSON, not Unicode, nested too deeply
        raise InvalidInput(f"{field} cannot be read: {_in_a_line(str(error))}") from None
    from llguidance import LLMatcher, LLParserLimits  # the engine runs without

    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(_tokenizer(tokenizer, eos_ids), grammar, log_level=0, limits=limits)
    constraint = GrammarConstraint(matcher)
    if matcher.is_error():
        raise InvalidInput(f"{field} cannot be used: {_reason(matcher)}")
    try:
        constraint.allowed()  # the first mask builds the lexer: here rather than on the engine's thread
    except SamplingError:
        raise InvalidInput(
            f"{field} cannot be used: no text matches, or too complex ({_reason(matcher)})"
        ) from None
    return constraint


def _grammar(sampling: Sampling) -> str:
    """In llguidance's form."""
    from llguidance import LLMatcher

    if sampling.json_schema is not None:
        return LLMatcher.grammar_from_json_schema(
            _schema_text(sampling.json_schema), overrides={"whitespace_pattern": _JSON_SPACE}
        )
    if sampling.regex is not None:
        return LLMatcher.grammar_from_regex(sampling.regex)
    assert sampling.grammar is not None
    return LLMatcher.grammar_from_lark(sampling.grammar)


def _schema_text(schema: object) -> str:
    """Parsed and written anew: llguidance pastes the text into a larger document as it is."""
    value = json.loads(schema) if isinstance(schema, str) else schema
    if not isinstance(value, Mapping):
        raise TypeError(f"a schema is a JSON object, not a {type(value).__name__}")
    return json.dumps(dict(value), allow_nan=False)


def _tokenizer(tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]) -> LLTokenizer:
    """llguidance's form of a tokenizer, made once: a large vocabulary takes about a second."""
    from llguidance.hf import from_tokenizer

    with _LOCK:
        made = _TOKENIZERS.setdefault(tokenizer, {})
        if eos_ids not in made:
            try:
                made[eos_ids] = from_tokenizer(
                    cast(PreTrainedTokenizerFast, tokenizer), eos_token=sorted(eos_ids)
                )
            except ValueError as error:
                raise InvalidInput(
                    f"this base's tokenizer cannot follow a grammar: {_in_a_line(str(error))}",
                    hint="Leave json_schema, regex and grammar out.",
                ) from error
        return made[eos_ids]


def _reason(matcher: LLMatcher) -> str:
    """llguidance's message without its picture of the place and its inner state."""
    return _in_a_line(_PICTURE.split(matcher.get_error(), maxsplit=1)[0])


def _in_a_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]
