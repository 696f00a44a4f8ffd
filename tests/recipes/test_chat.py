"""Chat: which tokens are learnt under which template, what is refused, and what is served in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedTokenizerBase

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import evaluate, train
from adapthub.recipes.chat import Chat
from adapthub.recipes.recipe import Encoded
from adapthub.recipes.text_metrics import answer_statistics
from adapthub.runtime import Runtime
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece

TALK = [
    {"role": "user", "content": "Ada was born"},
    {"role": "assistant", "content": "in London"},
    {"role": "user", "content": "Bob"},
    {"role": "assistant", "content": "in Paris"},
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
# Each its own way to say the same, the end of a line behind every turn.
PLAIN = (
    "{% for m in messages %}<s>{{ m.role }}<s>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant<s>{% endif %}"
)
MARKED = PLAIN.replace(
    "{{ m.content }}</s>\n",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}</s>{% endif %}\n",
)
SPACED = PLAIN.replace("<s>{{ m.content", ": {{ m.content").replace("assistant<s>", "assistant: ")


def encoded(tokenizer: PreTrainedTokenizerBase, rows: Any, length: int = 512, **options: Any) -> Encoded:
    recipe = Chat()
    data = recipe.read(rows, **options)
    recipe.check(data, ())
    return recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=length))


def learnt(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> list[str]:
    """The texts of the runs of tokens that are learnt."""
    runs: list[list[int]] = [[]]
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (token, -100)
        runs = [*runs[:-1], [*runs[-1], token]] if label == token else [*runs, []] if runs[-1] else runs
    return [str(tokenizer.decode(run)) for run in runs if run]


@pytest.mark.parametrize("template", [PLAIN, MARKED, None])
@pytest.mark.parametrize("kind", [byte_level, sentencepiece])
def test_the_assistants_turns_and_their_ends_are_learnt(kind: Any, template: str | None) -> None:
    tokenizer = kind()
    tokenizer.chat_template = template
    found = encoded(tokenizer, [{"messages": TALK}])
    (row,) = found.rows
    assert [text.strip() for text in learnt(tokenizer, row)] == ["in London</s>", "in Paris</s>"]
    assert found.supervised == found.targets == sum(label != -100 for label in row["labels"])
    assert row["labels"][-1] == tokenizer.eos_token_id  # nothing stands behind the last answer
    if template is not None:
        whole = tokenizer.apply_chat_template(TALK, tokenize=False)
        assert (
            row["input_ids"]
            == tokenizer(whole, add_special_tokens=False)["input_ids"][: len(row["input_ids"])]
        )


def test_marks_of_transformers_are_kept_to() -> None:
    """Its own mask, where the template has {% generation %}."""
    tokenizer = byte_level()
    tokenizer.chat_template = MARKED
    (row,) = encoded(tokenizer, [{"messages": TALK}]).rows
    theirs: Any = tokenizer.apply_chat_template(TALK, return_assistant_tokens_mask=True, return_dict=True)
    mask = theirs["assistant_masks"][: len(row["labels"])]
    assert [label != -100 for label in row["labels"]] == [bool(bit) for bit in mask]


def test_an_answer_follows_what_is_served_before_it() -> None:
    """Also where both would be joined to one token: a prompt that ends with a space is tokenised as it is served."""
    tokenizer = byte_level()
    tokenizer.chat_template = SPACED
    talk = [TALK[0], {"role": "assistant", "content": " in London"}]
    (row,) = encoded(tokenizer, [{"messages": talk}]).rows
    theirs: Any = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True)
    prompt = theirs["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert learnt(tokenizer, row) == [" in London</s>"]
    other = sentencepiece()  # in which no token is "in" without a space before it
    other.chat_template = SPACED
    with pytest.raises(InvalidData, match="data:row 1: no token begins where a turn of the assistant begins"):
        encoded(other, [{"messages": TALK}])


def test_messages_and_system() -> None:
    tokenizer = byte_level()
    found = encoded(
        tokenizer, [{"messages": [TALK[0], {**TALK[1], "train": False}, *TALK[2:]]}], system="Be brief."
    )
    assert learnt(tokenizer, found.rows[0]) == ["in Paris</s>"]
    assert str(tokenizer.decode(found.rows[0]["input_ids"])).startswith("<|im_start|>system\nBe brief.</s>")
    with pytest.raises(InvalidData, match="no message of the assistant is to be learnt"):
        encoded(tokenizer, [{"messages": [TALK[0], {**TALK[1], "train": False}]}])


def test_calls_are_learnt_and_what_they_come_to_is_not() -> None:
    tokenizer = byte_level()
    tokenizer.model_max_length = 2048
    talk = [TALK[0], CALL, {"role": "tool", "content": "2"}, TALK[1]]
    (row,) = encoded(tokenizer, [{"messages": talk, "tools": TOOLS}], 2048, template="chatml").rows
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call></s>'
    assert learnt(tokenizer, row) == [call, "in London</s>"]
    text = str(tokenizer.decode(row["input_ids"]))
    assert '"parameters"' in text.split("<|im_start|>user", maxsplit=1)[0]
    assert "<tool_response>\n2\n</tool_response></s>" in text
    tokenizer.chat_template = PLAIN
    with pytest.raises(InvalidData, match="data:row 1: there are tools, and the chat template has none"):
        encoded(tokenizer, [{"messages": talk, "tools": TOOLS}])
    with pytest.raises(InvalidData, match="there are tool_calls"):
        encoded(tokenizer, [{"messages": talk}])


def test_what_is_too_long_is_cut_at_a_turn_and_counted() -> None:
    tokenizer = byte_level()
    (whole,) = encoded(tokenizer, [{"messages": TALK}]).rows
    cut = encoded(tokenizer, [{"messages": TALK}], length=len(whole["input_ids"]) - 1)
    assert learnt(tokenizer, cut.rows[0]) == ["in London</s>"]
    assert (cut.truncated, cut.supervised < cut.targets) == (1, True)
    first = len(cut.rows[0]["input_ids"])
    inside = encoded(tokenizer, [{"messages": TALK}], length=first - 2)
    assert len(inside.rows[0]["input_ids"]) == first - 2
    assert 0 < inside.supervised < cut.supervised


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}|{% endfor %}", "with no token of its own"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "reads otherwise"),
        ("{% for m in messages %}{% if not loop.last %}-{% endif %}{{ m.content }}</s>{% endfor %}", "2 reads otherwise"),
        ("{{ raise_exception('only pirates') }}", "the chat template refuses it: only pirates"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_learnt_exactly_are_refused(template: str, message: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    with pytest.raises((InvalidData, InvalidSettings), match=message):
        encoded(tokenizer, [{"messages": TALK}])


# As Qwen3's: only the last answer has its thoughts, so that earlier ones read otherwise once they are answered.
THINKING = (
    "{% for m in messages %}<s>{{ m.role }}<s>"
    "{% if m.role == 'assistant' and loop.last %}(none) {% endif %}{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant<s>{% endif %}"
)


def test_the_last_answers_alone_are_learnt_where_a_template_rewrites_the_others() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = THINKING
    with pytest.raises(InvalidData, match=r"message 2 reads otherwise .* Set turns=last"):
        encoded(tokenizer, [{"messages": TALK}])
    (row,) = encoded(tokenizer, [{"messages": TALK}], turns="last").rows
    assert learnt(tokenizer, row) == ["(none) in Paris</s>"]
    prompt = tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(ids)] == ids
    with pytest.raises(InvalidData, match="no message of the assistant is to be learnt"):
        encoded(tokenizer, [{"messages": [*TALK[:-1], {**TALK[-1], "train": False}]}], turns="last")


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="is neither a file nor one of base, chatml"):
        Chat().read([{"messages": TALK}], template="alpaca")
    with pytest.raises(InvalidSettings, match="turns is all or last; 'first' is neither"):
        Chat().read([{"messages": TALK}], turns="first")
    with pytest.raises(InvalidSettings, match="answered='many'"):
        Chat().read([{"messages": TALK}], answered="many")
    with pytest.raises(InvalidSettings, match="the base has no chat template"):
        encoded(byte_level(), [{"messages": TALK}], template="base")
    (tmp_path / "t.jinja").write_text(PLAIN)
    data = Chat().read([{"messages": TALK}], template=str(tmp_path / "t.jinja"))
    assert Chat().resolve(byte_level(), data, max_length=99)["template"] == PLAIN


def test_metrics() -> None:
    losses = [np.array([1.0, 2.0]), np.array([3.0]), np.array([2.0])]
    statistics = answer_statistics(["a b c", "", "x"], ["a c d", "b", "x"], losses, [0, 2])
    values, estimates = statistics.values(), statistics.estimates(resamples=50)
    assert (estimates["rougeL"].n, estimates["loss"].n) == (2, 3)
    theirs = RougeScorer(["rougeL"]).score("a c d", "a b c")["rougeL"].fmeasure
    assert values["rougeL"] == pytest.approx((theirs + 1) / 2)
    assert values["loss"] == pytest.approx(2.0)
    assert values["perplexity"] == pytest.approx(np.exp(2.0))
    assert set(answer_statistics(["a"], ["a"], losses[:1], []).values()) == {"perplexity", "loss"}


def test_what_was_trained_is_measured_as_served(tmp_path: Path) -> None:
    tokenizer = byte_level()
    base = write_causal_base(
        tmp_path / "base", vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id
    )  # fmt: skip
    tokenizer.save_pretrained(base)
    rows = [{"messages": [{"role": "user", "content": f"Ada {n}"}, TALK[1]]} for n in range(12)]
    result = train(
        "chat", rows, base=str(base), test=rows[:3], output=tmp_path / "run", quiet=True, max_steps=3, answered=2
    )  # fmt: skip
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.recipe, manifest.hyperparameters["template"]) == ("chat", "chatml")
    assert manifest.hyperparameters["turn_end"] == tokenizer.eos_token
    assert set(result.metrics["test"]) == {"perplexity", "loss", "rougeL"}
    again = evaluate(Artifact.read(tmp_path / "run" / "adapter"), rows[:3], answered=2)
    assert again.metrics == result.metrics["test"]


def test_an_answer_has_what_room_its_conversation_leaves(tmp_path: Path) -> None:
    """None where there is none, and less where there is less: not nothing for want of the longest."""
    tokenizer = byte_level()
    tokenizer.chat_template = PLAIN
    write_causal_base(
        tmp_path / "base", vocab_size=len(tokenizer), max_position_embeddings=128, eos_token_id=None
    )
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = Chat()
    rows = [
        {"messages": [{"role": "user", "content": "ada " * words}, {"role": "assistant", "content": "yes"}]}
        for words in (2, 20, 200)
    ]
    data = recipe.read(rows, answered="all")
    settings = {**recipe.resolve(tokenizer, data, max_length=100), "max_new_tokens": 80}
    with Runtime(str(tmp_path / "base")) as runtime:
        short, long, longest = recipe.answers(runtime, None, data, settings)
    assert len(short) > len(long) > 0
    assert longest == ""
