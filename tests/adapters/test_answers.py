"""Question answering: windows hold every character of a context, the best spans are brute force's, heads are PEFT's."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
)

from adapthub.adapters.answers import NULL, Window, best_answers, encode_windows, find_tokens, read_part
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.heads import task_model
from tests.adapters.peft_oracle import load_plain, lora_config, prefix_config, save_adapter
from tests.conftest import write_tokenizer
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece, wordpiece

TASK = "question-answering"
CONTEXT = 3 * "ada was born in london and works at acme . bob met alice in paris . she visited berlin . "
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3, *range(20, 20 + n), 3]} for n in (9, 2, 14)]


def windows_of(tokenizer: Any, question: str, **options: Any) -> list[Window]:
    (windows,) = encode_windows(tokenizer, [question], [CONTEXT], ["it"], **options)
    return windows


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "byte level"])
def test_windows_overlap_and_hold_every_character(kind: str, tmp_path: Path) -> None:
    tokenizer = {"sentencepiece": sentencepiece, "byte level": byte_level}.get(
        kind, lambda: wordpiece(tmp_path)
    )()
    windows = windows_of(tokenizer, "bob met", max_length=36, stride=6)
    assert len(windows) > 1
    held = {at for window in windows for start, end in window.spans for at in range(start, end)}
    assert {at for at, character in enumerate(CONTEXT) if not character.isspace()} <= held
    for window in windows:
        assert len(window.features["input_ids"]) == len(window.spans) <= 36
        assert list(window.features) == ["input_ids"]
    for one, other in itertools.pairwise(windows):
        before, after = (window.spans[window.spans[:, 0] >= 0] for window in (one, other))
        assert before[-6:].tolist() == after[:6].tolist()
    assert len(windows_of(tokenizer, "bob met", max_length=500, stride=6)) == 1


def test_an_answer_is_found_only_where_it_is_whole(tmp_path: Path) -> None:
    windows = windows_of(wordpiece(tmp_path), "who", max_length=16, stride=4)
    start = CONTEXT.index("bob met")
    found = [find_tokens(window, start, start + len("bob met")) for window in windows]
    assert any(found)
    assert not all(found)
    for window, tokens in zip(windows, found, strict=True):
        if tokens is not None:
            assert CONTEXT[window.spans[tokens[0], 0] : window.spans[tokens[1], 1]] == "bob met"


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "byte level"])
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("ada was  born\tin london", "born"),
        ("ada \U0001f600 in london", "\U0001f600"),
        ("in a cafe\u0301 by ada", "cafe\u0301"),
        ("\u200bada was born", "ada"),
        ("ada\u00a0was born", "was"),
        ("was ada", "ada"),
    ],
)
def test_spans_are_words_without_spaces_and_with_their_marks(
    kind: str, context: str, answer: str, tmp_path: Path
) -> None:
    tokenizer = {"sentencepiece": sentencepiece, "byte level": byte_level}.get(
        kind, lambda: wordpiece(tmp_path)
    )()
    (windows,) = encode_windows(tokenizer, ["who"], [context], ["it"], max_length=64, stride=4)
    start = context.index(answer)
    part = read_part(windows, start, start + len(answer))
    assert part is not None
    found = find_tokens(windows[0], *part)
    assert found is not None
    first, last = windows[0].spans[found[0]], windows[0].spans[found[1]]
    assert context[first[0] : last[1]].strip("\u200b") == answer


def test_an_answer_that_no_token_is() -> None:
    window = Window({"input_ids": [1, 2]}, np.array([[-1, -1], [3, 3]], dtype=np.int32))
    assert read_part([window], 0, 9) is None
    assert find_tokens(window, 0, 9) is None


def test_a_question_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match="it: the question has 8 tokens, which leaves 5 of 16 for the context"
    ):
        windows_of(wordpiece(tmp_path), "who " * 2 + "a b", max_length=16, stride=5)


@settings(max_examples=50)
@given(st.data())
def test_the_best_spans_are_those_of_brute_force(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    longest, top = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    windows, logits, at = [], [], 0
    for size in data.draw(st.lists(st.integers(3, 8), min_size=1, max_size=3)):
        spans = [(-1, -1), (-1, -1), *((at + 2 * k, at + 2 * k + 1) for k in range(size))]
        windows.append(Window({"input_ids": [0] * len(spans)}, np.array(spans, dtype=np.int32)))
        logits.append(draw.normal(size=(len(spans), 2)).astype(np.float32))
        at += size  # neighbours share characters where sizes are odd or even alike
    scores: dict[tuple[int, int], float] = {}
    every = []
    for window, each in zip(windows, logits, strict=True):
        for first, last in itertools.product(range(2, len(window.spans)), repeat=2):
            if 0 <= last - first < longest:
                score = float(each[first, 0]) + float(each[last, 1])
                every.append(score)
                place = int(window.spans[first, 0]), int(window.spans[last, 1])
                scores[place] = max(scores.get(place, -np.inf), score)
    null = min(float(each[NULL].sum()) for each in logits)
    total = sum(np.exp(score) for score in every) + np.exp(null)
    best = sorted(scores.items(), key=lambda item: -item[1])[:top]
    found = best_answers(windows, logits, top=top, longest=longest)
    assert found.none == pytest.approx(np.exp(null) / total, rel=1e-6)
    assert [(span.start, span.end) for span in found.spans] == [place for place, _ in best][
        : len(found.spans)
    ]
    assert found.spans[0].score == pytest.approx(np.exp(best[0][1]) / total, rel=1e-6)
    assert best_answers(windows, logits, answerable=True).none == 0


def expected(base: Path, folder: Path) -> list[torch.Tensor]:
    """Starts and ends by plain PEFT, each row alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_plain(base, TASK, 2), str(folder)).eval()
        outputs = []
        for row in ROWS:
            ids = torch.tensor([row["input_ids"]])
            with torch.inference_mode():
                output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            outputs.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
        return outputs


SIZES: dict[str, Any] = {"vocab_size": 160, "max_position_embeddings": 64, "initializer_range": 0.2}


def write_family(folder: Path, family: str) -> Path:
    torch.manual_seed(1)
    model: Any
    if family == "distilbert":
        model = DistilBertModel(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, **SIZES))
    else:
        shape: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
        sizes = {**SIZES, "max_position_embeddings": 66, "pad_token_id": 0}
        model = (
            RobertaModel(RobertaConfig(**shape, **sizes))
            if family == "roberta"
            else LlamaModel(LlamaConfig(**shape, **SIZES))
        )
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("method", ["lora", "dora", "prefix"])
def test_starts_and_ends_are_pefts(family: str, method: str, tiny_base: Path, tmp_path: Path) -> None:
    base = tiny_base if family == "bert" else write_family(tmp_path / "base", family)
    if method == "prefix" and family == "distilbert":
        pytest.skip("takes no past keys and values")
    config = (
        prefix_config(TASK)
        if method == "prefix"
        else lora_config(
            TASK,
            use_dora=method == "dora",
            target_modules=["query", "value", "q_lin", "v_lin"],
        )
    )
    adapted = AdaptedBase(load_base(str(base)))
    folder = save_adapter(base, tmp_path / "adapter", TASK, config, labels=2)
    selection = ((1.0, adapted.attach(Artifact.read(folder))),)
    alone = [adapted.logits([row], [selection])[0] for row in ROWS]
    mixed = adapted.logits([*ROWS, *ROWS], [selection] * 3 + [()] * 3)
    for ours, also, theirs in zip(alone, mixed, expected(base, folder), strict=False):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5
        assert (also - theirs).abs().max() / theirs.abs().max() <= 1e-5


def test_families_that_lay_themselves_out_otherwise_for_it_are_refused(tmp_path: Path) -> None:
    base = load_base(str(write_family(tmp_path / "llama", "llama")))
    with pytest.raises(InvalidSettings, match="'llama' have another layout under question-answering"):
        task_model(base, TASK, ())
