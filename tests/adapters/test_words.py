"""Words and sub-tokens: spans of raw text, positions by tokenizer, which sub-token is labelled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.words import choose_label_token, encode_words, split_words
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece, wordpiece


def surfaces(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


def test_words_are_runs_of_letters_single_signs_and_single_cjk_characters() -> None:
    assert surfaces("Ada's 2nd trip,\nU.K.") == ["Ada", "'", "s", "2nd", "trip", ",", "U", ".", "K", "."]
    assert surfaces("中国Ada在 北京") == ["中", "国", "Ada", "在", "北", "京"]
    assert surfaces("हिन्दी cafe\u0301") == ["हिन्दी", "cafe\u0301"]
    assert surfaces(" \t\n") == []


@given(st.text())
def test_words_cover_every_visible_character_once_and_in_order(text: str) -> None:
    spans = split_words(text)
    assert all(start < end for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    covered = {index for start, end in spans for index in range(start, end)}
    assert {index for index, character in enumerate(text) if not character.isspace()} == covered


def test_each_word_is_carried_by_its_first_or_last_sub_token(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    rows = [["ada", "xyz", "was"], ["paris"]]
    first, single = encode_words(tokenizer, rows, label_token="first")
    assert tokenizer.convert_ids_to_tokens(first.features["input_ids"]) == [
        "[CLS]", "ada", "x", "##y", "##z", "was", "[SEP]",
    ]  # fmt: skip
    assert first.positions == [1, 2, 5]
    assert single.positions == [1]
    last, _ = encode_words(tokenizer, rows, label_token="last")
    assert last.positions == [1, 4, 5]
    assert last.features == first.features
    assert "attention_mask" not in first.features


def test_words_cut_off_or_invisible_have_no_position(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    cut, whole = encode_words(
        tokenizer, [["ada", "\u200b", "was", "born"], ["ada"]], label_token="first", max_length=4
    )
    assert cut.positions == [1, -1, 2, -1]
    assert (cut.truncated, whole.truncated) == (True, False)
    assert len(cut.features["input_ids"]) == 4


def test_byte_level_words_keep_the_space_that_raw_text_has() -> None:
    tokenizer = byte_level()
    [encoded] = encode_words(tokenizer, [["Ada", "was", "in", "London"]], label_token="first")
    assert encoded.features["input_ids"] == tokenizer("Ada was in London")["input_ids"]


def test_bare_markers_choose_the_last_sub_token() -> None:
    tokenizer = sentencepiece()
    chinese = [["中国", "人民", "银行"]]
    assert choose_label_token(tokenizer, chinese) == "last"
    [encoded] = encode_words(tokenizer, chinese, label_token="last")
    ids = [encoded.features["input_ids"][position] for position in encoded.positions]
    assert tokenizer.convert_ids_to_tokens(ids) == ["中国", "人民", "银行"]


def test_words_with_a_surface_choose_the_first_sub_token(tmp_path: Path) -> None:
    english = [["Ada", "was", "born", "in", "London"]]
    for tokenizer in (sentencepiece(), byte_level(), wordpiece(tmp_path)):
        assert choose_label_token(tokenizer, english) == "first"


def test_a_tokenizer_that_does_not_track_words_is_refused() -> None:
    from transformers.tokenization_python import PreTrainedTokenizer

    class Slow(PreTrainedTokenizer):
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

        @property
        def vocab_size(self) -> int:
            return 1

    slow: Any = Slow
    with pytest.raises(InvalidSettings, match="Slow cannot tell which word"):
        encode_words(slow(), [["a"]], label_token="first")


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    assert encode_words(wordpiece(tmp_path), [], label_token="first") == []
