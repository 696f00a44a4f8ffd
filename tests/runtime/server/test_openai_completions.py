"""Completions as OpenAI's client sees them, against what the runtime itself generates."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.test_openai_chat import base_of

PROMPTS = ["ada was born in", "the film is"]


def test_prompts_of_every_kind_are_continued(client: openai.OpenAI, server: Running) -> None:
    runtime = server.serving.runtime
    ids = [runtime.generation.prompt_ids(prompt) for prompt in PROMPTS]
    wanted = runtime.generate(PROMPTS, "acme/sql", max_new_tokens=7)
    cases: list[tuple[Any, list[str]]] = [
        (PROMPTS[0], [wanted[0].text]),
        (PROMPTS, [one.text for one in wanted]),
        (ids[1], [wanted[1].text]),
        (ids, [one.text for one in wanted]),
    ]
    for prompt, texts in cases:
        answer = client.completions.create(model="acme/sql", prompt=prompt, max_tokens=7, temperature=0)
        assert [choice.text for choice in answer.choices] == texts
        assert [choice.index for choice in answer.choices] == list(range(len(texts)))
        assert answer.object == "text_completion"
        assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.completion_tokens == sum(len(one.tokens) for one in wanted)


def test_by_default_16_tokens(client: openai.OpenAI, server: Running) -> None:
    answer = client.completions.create(
        model=base_of(server), prompt=PROMPTS[0], extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_choices_of_each_prompt_come_one_after_another(client: openai.OpenAI, server: Running) -> None:
    options: Any = {"temperature": 0.9, "seed": 3, "n": 2}
    wanted = server.serving.runtime.generate(PROMPTS, max_new_tokens=6, **options)
    answer = client.completions.create(
        model=base_of(server), prompt=PROMPTS, max_tokens=6, best_of=2, **options
    )
    assert [choice.text for choice in answer.choices] == [one.text for one in wanted]


@pytest.mark.parametrize("prompt", [PROMPTS, PROMPTS[0]])
def test_streams_have_the_same_texts_behind_their_prompts(
    client: openai.OpenAI, server: Running, prompt: Any
) -> None:
    options: Any = {
        "model": "acme/tone",
        "prompt": prompt,
        "max_tokens": 6,
        "temperature": 0,
        "echo": True,
    }
    whole = client.completions.create(**options)
    texts = ["" for _ in whole.choices]
    reasons = ["" for _ in whole.choices]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] += choice.finish_reason or ""
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert texts[0].startswith(PROMPTS[0])


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_at_their_places_in_the_text(
    speller: openai.OpenAI, spelling_server: Running, stream: bool
) -> None:
    options: Any = {
        "model": base_of(spelling_server),
        "prompt": "the film",
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": 2,
        "stream": stream,
        "extra_body": {"ignore_eos": True},
    }
    answer = speller.completions.create(**options)
    parts = [answer.choices[0]] if not stream else [chunk.choices[0] for chunk in answer]
    text = "".join(part.text for part in parts)
    found = [part.logprobs for part in parts if part.logprobs is not None]
    tokens = [token for one in found for token in one.tokens or ()]
    offsets = [offset for one in found for offset in one.text_offset or ()]
    top = [others for one in found for others in one.top_logprobs or ()]
    assert len(tokens) == len(offsets) == len(top) == 20
    for token, offset, others in zip(tokens, offsets, top, strict=True):
        if "\N{REPLACEMENT CHARACTER}" not in token and token != "<end>":
            assert text[offset : offset + len(token)] == token
        assert token in others


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suffix": "x"}, "suffix is not supported"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo with logprobs"),
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "empty"),
        ({"prompt": ["a", 3]}, "prompt"),
        ({"prompt": [10**9]}, "outside the vocabulary"),
        ({"prompt": [-1]}, "outside the vocabulary"),
        ({"prompt": [10**12], "echo": True}, "outside the vocabulary"),
        ({"prompt": ["a"] * 100, "n": 2}, "At most 128"),
        ({"max_tokens": 1000}, "context"),
        ({"extra_body": {"min_tokens": 99}}, "min_new_tokens"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_cannot_be_is_refused(
    speller: openai.OpenAI, spelling_server: Running, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        speller.completions.create(**{"model": base_of(spelling_server), "prompt": "the film"} | options)
