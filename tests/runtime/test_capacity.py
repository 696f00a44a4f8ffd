"""What a served base is said to take is what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from adapthub.adapters import products
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings, OutOfMemory
from adapthub.runtime import Runtime
from adapthub.runtime import capacity as counting
from adapthub.runtime.capacity import capacity
from adapthub.runtime.generation import PAGE_SIZE, Limits
from adapthub.runtime.kv import page_bytes
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import save_adapter
from tests.cli.conftest import Command, cli
from tests.conftest import write_tokenizer
from tests.runtime.generating import lora

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["cli"]  # a fixture


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_base(tmp_path_factory.mktemp("base"))


def test_sizes_are_those_of_what_is_loaded(base: Path, tmp_path: Path) -> None:
    limits = Limits(kv_tokens=1000, max_rows=4)
    said = capacity(str(base), limits=limits, rank=4, slots=3)
    adapter = save_adapter(base, tmp_path / "lora", CAUSAL, lora())
    with Runtime(str(base), limits=limits) as runtime:
        runtime.generate([[5]], adapter, max_new_tokens=1)
        service = runtime.generation
        page = page_bytes(service.serving.shapes, PAGE_SIZE, service.serving.dtype)
        (resident,) = runtime.resident
        parameters = {id(p): p.nbytes for p in runtime.base.model.parameters()}
        assert said.base_bytes == sum(parameters.values())
        assert said.kv_bytes == service.load.pages * page
        assert said.kv_tokens == 1000
        assert said.context == service.context == 64
        assert said.adapter_bytes == resident.bytes
    assert said.slot_bytes == 3 * said.adapter_bytes
    taken = said.base_bytes + said.packed_bytes + said.kv_bytes + said.slot_bytes + said.stack_bytes
    taken += said.pass_bytes + said.graph_bytes
    assert said.left == said.free - taken


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that is faster with packed weights, however small they are."""
    monkeypatch.setattr(products, "by_onednn", lambda: True)
    monkeypatch.setattr(products, "_WORTH_PACKING", 1)


def packed(runtime: Runtime) -> list[torch.Tensor]:
    layers = [layer for layer in runtime.base.model.modules() if isinstance(layer, products.Linear)]
    return [layer.packed.copy for layer in layers if layer.packed]


@pytest.mark.parametrize("quantize", [None, "nf4"])
@pytest.mark.parametrize("published", [False, True])
def test_second_copies_of_weights_are_counted(
    base: Path, quantize: str | None, published: bool, packs: None, tmp_path: Path
) -> None:
    where, asked = str(base), quantize
    if published:
        where, asked = str(tmp_path), None
        loaded = load_base(str(base), quantize, "cpu")
        loaded.model.save_pretrained(where)
        cast("PreTrainedTokenizerBase", loaded.tokenizer).save_pretrained(where)
    said = capacity(where, asked, "cpu", limits=Limits(kv_tokens=1000), slots=1)
    with Runtime(where, asked, "cpu") as runtime:
        copies = packed(runtime)
        assert said.packed_bytes == sum(4 * copy.numel() for copy in copies) > 0
        assert (len(copies) == 1) == (quantize is not None)
    assert not packed(runtime)


def test_second_copies_leave_room_for_keys_and_values(
    base: Path, packs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(max_rows=1 << 30)
    plenty = capacity(str(base), device="cpu", limits=limits, slots=1)
    copies, each = plenty.packed_bytes, plenty.kv_token_bytes
    for free, expected in ((2 * copies, copies), (2 * copies - 4, 0)):
        monkeypatch.setattr(
            "adapthub.runtime.capacity.free_memory", lambda _, free=free: plenty.base_bytes + free
        )
        said = capacity(str(base), device="cpu", limits=limits, slots=1)
        assert said.packed_bytes == expected
        assert 0 <= (free - expected) / 4 - said.kv_tokens * each < PAGE_SIZE * each


def test_by_default_everything_fits(base: Path) -> None:
    said = capacity(str(base), "nf4")
    assert said.slots > 0
    assert said.left >= 0
    assert said.base_bytes < capacity(str(base)).base_bytes


def test_a_base_whose_text_model_has_a_configuration_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a base that reads pictures too: it is counted, and served."""
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**layers, "vocab_size": 160, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16}
    pictures = {**layers, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=pictures, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    limits = Limits(kv_tokens=64, max_rows=4)
    without = capacity(str(tmp_path), device="cpu", limits=limits, slots=1)
    monkeypatch.setattr(counting, "kernels_run", lambda device: True)  # as on a GPU
    said = capacity(str(tmp_path), device="cpu", limits=limits, slots=1)
    assert said.graph_bytes > 4 * 4 * 160
    assert said.left - without.left == without.graph_bytes - said.graph_bytes + said.free - without.free
    with Runtime(str(tmp_path), device="cpu", limits=limits) as runtime:
        assert len(runtime.generate([[5, 6]], max_new_tokens=3, ignore_eos=True)[0].token_ids) == 3


def test_what_cannot_be_served_is_refused(base: Path, tiny_base: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot generate here"):
        capacity(str(tiny_base))
    with pytest.raises(OutOfMemory, match="Lower kv_tokens"):
        capacity(str(base), limits=Limits(kv_tokens=1 << 50))
    with pytest.raises(InvalidSettings, match="rank = 0"):
        capacity(str(base), rank=0)


def test_the_command_says_it_for_people_and_programs(cli: Command, base: Path) -> None:
    shown = cli("plan", "--serve", "--base", base, "--slots", 5).fine()
    assert "5 of" in shown
    record = json.loads(cli("plan", "--serve", "--base", base, "--kv-tokens", 800, "--json").fine())
    assert record["kv_tokens"] == 800
    assert "Name it with --base" in cli("plan", "--serve").refused()
    assert "--serve" in cli("plan", "--help").fine()
    assert "--kv-tokens" in cli("plan", "--serve", "--help").fine()
