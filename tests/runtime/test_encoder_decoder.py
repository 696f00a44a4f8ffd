"""Text of encoder-decoders under many adapters: each is what PEFT's own generate writes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdaptHubError, InvalidInput
from adapthub.runtime import Runtime
from adapthub.runtime.generation import Limits
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampling
from tests.conftest import write_tokenizer
from tests.runtime.t5 import save, write_t5

PROMPTS = ["ada was born in london", "bob", "the film is good , a fine story", "she visited berlin"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def lively(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that writes something else of each prompt, and no token twice in a row."""
    return save(t5, tmp_path_factory.mktemp("lively") / "adapter", 2, ["q", "k", "v", "o", "wi", "wo"])


def test_rows_of_unlike_adapters_are_pefts(t5: Path, tmp_path: Path) -> None:
    first = save(t5, tmp_path / "first", 1, ["q", "k", "v", "o", "wi", "wo"])
    second = save(t5, tmp_path / "second", 2, ["q", "v"])
    mixed = [first, None, second, first]
    with Runtime(load_base(str(t5), device="cpu")) as runtime:
        found = runtime.generate(PROMPTS, mixed, max_new_tokens=12)
    tokenizer = AutoTokenizer.from_pretrained(t5)
    for prompt, adapter, one in zip(PROMPTS, mixed, found, strict=True):
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter)).eval()
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        theirs = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()[1:]
        assert one.token_ids == theirs
        assert one.text == tokenizer.decode(theirs, skip_special_tokens=True)
        assert one.finish_reason == ("stop" if theirs[-1] == 3 else "length")
        assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (
            inputs["input_ids"].shape[1],
            len(theirs),
        )
    assert len({tuple(one.token_ids) for one in found}) > 2, "they write unlike things"


def test_many_at_once_are_each_alone(t5: Path, lively: Path) -> None:
    """Of unlike lengths, ends and adapters; more than run at once."""
    with Runtime(load_base(str(t5), device="cpu"), limits=Limits(max_rows=3, step_tokens=4)) as runtime:
        rows = [
            (prompt, adapter, 2 + at) for at, prompt in enumerate(PROMPTS * 2) for adapter in (lively, None)
        ]
        streams = [
            runtime.stream(prompt, adapter, max_new_tokens=count, ignore_eos=True)
            for prompt, adapter, count in rows
        ]
        found = [stream.result() for stream in streams]
        for (prompt, adapter, count), together in zip(rows, found, strict=True):
            (alone,) = runtime.generate([prompt], adapter, max_new_tokens=count, ignore_eos=True)
            assert together.token_ids == alone.token_ids
            assert len(alone.token_ids) == count


def test_texts_come_piece_by_piece_and_are_drawn_as_asked(t5: Path) -> None:
    with Runtime(load_base(str(t5), device="cpu")) as runtime:
        (whole,) = runtime.generate(["bob"], max_new_tokens=8, ignore_eos=True)
        events = [*runtime.stream("bob", max_new_tokens=8, ignore_eos=True)]
        assert len(events) >= 8
        assert "".join(event.text for event in events) == whole.text
        ids = runtime.generation.tokenizer("bob")["input_ids"]
        assert runtime.generate([ids], max_new_tokens=8, ignore_eos=True)[0].token_ids == whole.token_ids
        drawn = [
            runtime.generate(["bob"], max_new_tokens=8, temperature=5.0, seed=seed)[0].token_ids
            for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]


def test_rows_that_change_places_keep_their_prompts(t5: Path, lively: Path) -> None:
    """Prompts of nobody are read after a tenant's, and written before: the order of their admission."""
    with Runtime(load_base(str(t5), device="cpu")) as runtime:
        service = runtime.generation
        digest = runtime.attach(lively)
        alone = [
            runtime.generate([prompt], lively, max_new_tokens=8, ignore_eos=True)[0] for prompt in PROMPTS
        ]
        assert len({tuple(one.token_ids) for one in alone}) == len(PROMPTS)
        written: dict[str, list[int]] = {prompt: [] for prompt in PROMPTS}
        ended = {prompt: threading.Event() for prompt in PROMPTS}

        def deliver(prompt: str, event: Event) -> None:
            written[prompt] += [token.token_id for token in event.tokens]
            if event.finish_reason is not None:
                ended[prompt].set()

        asked = Sampling(max_new_tokens=8, ignore_eos=True)
        for prompt, tenant in zip(PROMPTS, ("", "acme", "", "beta"), strict=True):
            ids = service.prompt_ids(prompt)
            service.submit(ids, ((1.0, digest),), asked, partial(deliver, prompt), tenant=tenant, wake=False)
        service.wake()
        assert all(event.wait(60) for event in ended.values())
        assert [written[prompt] for prompt in PROMPTS] == [one.token_ids for one in alone]


def test_rows_that_make_room_for_others_are_read_anew(t5: Path, lively: Path) -> None:
    with Runtime(load_base(str(t5), device="cpu"), limits=Limits(kv_tokens=48, step_tokens=4)) as runtime:
        streams = [runtime.stream(prompt, lively, max_new_tokens=24, ignore_eos=True) for prompt in PROMPTS]
        found = [stream.result().token_ids for stream in streams]
        assert runtime.generation.load.preemptions
        alone = [
            runtime.generate([prompt], lively, max_new_tokens=24, ignore_eos=True)[0] for prompt in PROMPTS
        ]
        assert found == [one.token_ids for one in alone]


def test_long_prompts_are_not_all_read_at_once(
    t5: Path, lively: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.runtime.encoder_decoder._CONTEXT", 64)
    prompts = [f"{prompt} {'ada ' * 8 * at}" for at, prompt in enumerate(PROMPTS)]
    with Runtime(load_base(str(t5), device="cpu")) as runtime:
        sizes: list[int] = []
        encoder: Any = runtime.base.model
        encoder.get_encoder().register_forward_hook(
            lambda module, given, output: sizes.append(output.last_hidden_state.shape[:2].numel())
        )
        together = runtime.generate(prompts, lively, max_new_tokens=6)
        assert len(sizes) > 1
        assert max(sizes) <= 64
        assert [one.token_ids for one in together] == [
            runtime.generate([prompt], lively, max_new_tokens=6)[0].token_ids for prompt in prompts
        ]


@pytest.mark.parametrize(
    "told",
    [
        {"forced_eos_token_id": 3},
        {"forced_eos_token_id": 3, "min_length": 9},
        {"forced_bos_token_id": 7, "begin_suppress_tokens": [5, 9], "repetition_penalty": 1.7},
        {"suppress_tokens": [*range(20, 90)], "no_repeat_ngram_size": 2, "bad_words_ids": [[11], [12, 13]]},
    ],
)
def test_what_a_base_says_of_its_texts_holds(t5: Path, lively: Path, told: Mapping[str, Any]) -> None:
    base = load_base(str(t5), device="cpu")
    cast(Any, base.model.generation_config).update(**told)
    with Runtime(base) as runtime:
        ours = [one.token_ids for one in runtime.generate(PROMPTS, lively, max_new_tokens=12)]
        both: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}
        assert all(len(one.token_ids) == 6 for one in runtime.generate(PROMPTS, lively, **both))
        assert all(
            len(one.token_ids) == 12
            for one in runtime.generate(PROMPTS, lively, max_new_tokens=12, ignore_eos=True)
        )
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    model.generation_config.update(**told)
    model = PeftModel.from_pretrained(model, str(lively)).eval()
    tokenizer = AutoTokenizer.from_pretrained(t5)
    for prompt, one in zip(PROMPTS, ours, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        assert one == model.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()[1:]


@pytest.mark.parametrize("asked", [None, 1.0, 1.2, 3.0])
@pytest.mark.parametrize("told", [None, 1.7])
def test_a_requests_repetition_penalty_takes_the_bases_place(
    t5: Path, lively: Path, told: float | None, asked: float | None
) -> None:
    """As in transformers, and it counts what the decoder has written, not the prompt."""
    base = load_base(str(t5), device="cpu")
    base.model.generation_config.repetition_penalty = told
    with Runtime(base) as runtime:
        given: dict[str, Any] = {} if asked is None else {"repetition_penalty": asked}
        ours = [one.token_ids for one in runtime.generate(PROMPTS, lively, max_new_tokens=12, **given)]
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    model.generation_config.repetition_penalty = told
    model = PeftModel.from_pretrained(model, str(lively)).eval()
    tokenizer = AutoTokenizer.from_pretrained(t5)
    for prompt, one in zip(PROMPTS, ours, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        theirs = model.generate(**inputs, **given, max_new_tokens=12, do_sample=False)
        assert one == theirs[0].tolist()[1:]


@pytest.mark.parametrize("room", [None, 60])
def test_prompt_and_answer_have_the_positions_of_either_side(tmp_path: Path, room: int | None) -> None:
    """BART counts them; transformers' generate fills both."""
    torch.manual_seed(0)
    sizes = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))
    }
    ends = {"bos_token_id": 2, "eos_token_id": 3, "forced_eos_token_id": None, "decoder_start_token_id": 3}
    config = cast(Any, BartConfig)(
        vocab_size=160, d_model=32, max_position_embeddings=32, init_std=0.5, pad_token_id=0, **ends, **sizes
    )
    model: Any = BartForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    prompts = [[*range(5, 37)], [*range(40, 71)], [7, 8]]
    with Runtime(load_base(str(tmp_path), device="cpu"), limits=Limits(kv_tokens=room)) as runtime:
        for prompt in prompts:
            assert runtime.room(prompt=len(prompt)) == min(32, (room or 1000) - len(prompt))
        if room is not None:
            with pytest.raises(
                InvalidInput, match="at most 32 are read and 32 written, and together at most 60"
            ):
                runtime.generate(prompts, max_new_tokens=32)
            return
        ours = [one.token_ids for one in runtime.generate(prompts, max_new_tokens=32, ignore_eos=True)]
        with pytest.raises(InvalidInput, match="has 33 tokens .*; at most 32 are read"):
            runtime.generate([[5] * 33], max_new_tokens=1)
        with pytest.raises(InvalidInput, match="max_new_tokens is 33; at most 32 .* 32 written"):
            runtime.generate([[5]], max_new_tokens=33)
    for prompt, one in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, max_new_tokens=32, do_sample=False, eos_token_id=None)[0].tolist()[1:]
        assert one == theirs


def test_what_cannot_be_is_refused(t5: Path, tmp_path: Path) -> None:
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(t5)
    prefix = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    get_peft_model(base, prefix).save_pretrained(str(tmp_path / "prefix"))
    with Runtime(load_base(str(t5), device="cpu"), limits=Limits(kv_tokens=64)) as runtime:
        with pytest.raises(InvalidInput, match="no setting of generation.*max_new_tokens"):
            runtime.generate(["bob"], max_new_token=4)
        with pytest.raises(InvalidInput, match="has no chat template"):
            runtime.generate([[{"role": "user", "content": "bob"}]])
        with pytest.raises(InvalidInput, match="the prompt is empty"):
            runtime.generate(["bob", []], max_new_tokens=4)
        with pytest.raises(InvalidInput, match="together at most 64 fit"):
            runtime.generate(["bob " * 60], max_new_tokens=8)
        with pytest.raises(AdaptHubError, match="prefix"):
            runtime.generate(["bob"], tmp_path / "prefix", max_new_tokens=4)
        assert runtime.generate(["bob"], max_new_tokens=4)[0].usage.completion_tokens > 0
