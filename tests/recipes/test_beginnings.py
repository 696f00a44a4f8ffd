"""The tokens of beginnings of a text are those of the beginnings alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from adapthub.recipes.beginnings import tokens_of_beginnings
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece, wordpiece

MARKERS = ["<|im_start|>", "<|im_end|>", "<|im|>", "<|im|>|", "[SEP]", "</s>", "<s>"]
PIECES = [
    *MARKERS,
    "user",
    "assistant",
    "Ada",
    " was",
    " ",
    "  ",
    "\n",
    "\n\n",
    ".",
    "在",
    "中国人民",
    "<|im",
    "|>",
]


def _words() -> dict[str, int]:
    texts = [*"abcdefghijklmnopqrstuvwxyzA \u2581.<|>_", "user", "Ada", "\u2581Ada", "\u2581was", "<unk>"]
    return {text: at for at, text in enumerate(texts)}


def _metaspace_first() -> PreTrainedTokenizerBase:
    """Mistral's kind: a mark before the first word of a text alone."""
    tokenizer = Tokenizer(
        models.Unigram([(text, -float(len(text))) for text in _words()], unk_id=len(_words()) - 1)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _legacy() -> PreTrainedTokenizerBase:
    """Llama 2's kind: a normaliser writes the mark before each part."""
    tokenizer = Tokenizer(models.BPE(_words(), [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _marked(tokenizer: PreTrainedTokenizerBase, **how: Any) -> PreTrainedTokenizerBase:
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(text, special=True, normalized=False, **how) for text in MARKERS
            ]
        }
    )
    return tokenizer


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte level": lambda: _marked(byte_level()),
    "sentencepiece": lambda: _marked(sentencepiece()),
    "first": lambda: _marked(_metaspace_first()),
    "legacy": lambda: _marked(_legacy()),
    "spaces behind": lambda: _marked(byte_level(), rstrip=True),
    "spaces before": lambda: _marked(byte_level(), lstrip=True),
    "single words": lambda: _marked(byte_level(), single_word=True),
    "no marker": byte_level,
}
MADE = {name: make() for name, make in KINDS.items()}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(MADE)),
    st.lists(
        st.tuples(st.lists(st.sampled_from(PIECES)), st.lists(st.integers(0, 60))), min_size=1, max_size=3
    ),
)
def test_beginnings_are_tokenised_as_they_are_alone(
    kind: str, some: list[tuple[list[str], list[int]]]
) -> None:
    tokenizer = MADE[kind]
    texts = ["".join(pieces) for pieces, _ in some]
    ends = [[min(end, len(text)) for end in its] for text, (_, its) in zip(texts, some, strict=True)]
    found = tokens_of_beginnings(tokenizer, texts, ends)
    assert found == [
        [tokenizer(text[:end], add_special_tokens=False)["input_ids"] for end in its]
        for text, its in zip(texts, ends, strict=True)
    ]


def test_a_tokenizer_of_words_too(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    text = "ada was [SEP] in london [SEP] bob"
    found = tokens_of_beginnings(tokenizer, [text], [range(len(text) + 1)])
    assert found == [
        [tokenizer(text[:end], add_special_tokens=False)["input_ids"] for end in range(len(text) + 1)]
    ]


def test_a_tokenizer_that_reads_special_tokens_as_text() -> None:
    tokenizer = _marked(sentencepiece())
    tokenizer.split_special_tokens = True
    text = "<s>Ada</s> Ada"
    found = tokens_of_beginnings(tokenizer, [text], [range(len(text) + 1)])
    assert found == [
        [tokenizer(text[:end], add_special_tokens=False)["input_ids"] for end in range(len(text) + 1)]
    ]


@pytest.mark.parametrize("kind", ["byte level", "first", "legacy", "spaces behind"])
def test_little_is_tokenised(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, told = MADE[kind], list[str]()
    real = type(tokenizer).__call__

    def tell(self: Any, texts: list[str], **how: Any) -> Any:
        told.extend(texts)
        return real(self, texts, **how)

    turns = ["<|im_start|>user\nAda<|im_end|>\n<|im_start|>assistant\n", "Ada was", "<|im_end|>\n"] * 20
    text = "".join(turns)
    ends = [len("".join(turns[:at])) for at in range(1, len(turns))]
    monkeypatch.setattr(type(tokenizer), "__call__", tell)
    tokens_of_beginnings(tokenizer, [text], [ends])
    assert sum(map(len, told)) < 2 * len(text)
