"""Text of encoder-decoders under many adapters: each is what PEFT's own generate writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput
from adapthub.runtime import Runtime
from tests.conftest import write_tokenizer

PROMPTS = ["ada was born in london", "bob", "the film is good , a fine story", "she visited berlin"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of 2 + 2 layers of 32."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = cast(Any, T5Config)(
        vocab_size=160,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=0,
        initializer_factor=1.5,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def save(base: Path, folder: Path, seed: int, targets: list[str]) -> Path:
    torch.manual_seed(seed)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=32, target_modules=targets, init_lora_weights=False
    )
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder


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


def test_what_is_not_done(t5: Path) -> None:
    with Runtime(load_base(str(t5), device="cpu")) as runtime:
        ids = runtime.base.tokenizer("bob")["input_ids"]  # type: ignore[misc]
        assert runtime.generate([ids], max_new_tokens=4) == runtime.generate(["bob"], max_new_tokens=4)
        with pytest.raises(InvalidInput, match="temperature = 0.5 is not done on an encoder-decoder"):
            runtime.generate(["bob"], temperature=0.5)
        with pytest.raises(InvalidInput, match="no setting of generation.*max_new_tokens"):
            runtime.generate(["bob"], max_new_token=4)
        with pytest.raises(InvalidInput, match="prompt 0 is a conversation"):
            runtime.generate([[{"role": "user", "content": "bob"}]])
        with pytest.raises(InvalidInput, match="prompt 1 has 0 tokens"):
            runtime.generate(["bob", []])
