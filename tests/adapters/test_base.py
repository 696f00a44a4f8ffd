"""Loading bases: quantised or not, the same layers whatever the checkpoint, and every refusal in one line."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from adapthub.adapters import base as module
from adapthub.adapters import load_base
from adapthub.adapters.base import Base, resolve_base
from adapthub.adapters.errors import (
    AdaptHubError,
    BaseNotFound,
    InvalidSettings,
    MissingDependency,
    OutOfMemory,
)
from adapthub.adapters.placement import choose_dtype
from adapthub.adapters.products import Linear

PLAIN = (nn.Linear, Linear)  # not quantised, whatever multiplies
TOKENS = torch.arange(5, 12)[None]


def quantised_names(base: Base) -> set[str]:
    # Where tests run on a GPU it may not be there.
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return {
        name for name, layer in base.backbone.named_modules() if isinstance(layer, (Linear4bit, Linear8bitLt))
    }


def hidden(base: Base) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = base.backbone(TOKENS).last_hidden_state
    return output


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_an_unquantised_base_computes_what_transformers_computes(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    theirs = BertModel.from_pretrained(tiny_base).train(False)
    with torch.inference_mode():
        assert torch.equal(hidden(base), theirs(TOKENS).last_hidden_state)
    assert (base.dtype, base.device, base.quantization) == (torch.float32, torch.device("cpu"), None)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.tokenizer is not None
    assert base.tokenizer("ada")["input_ids"][0] == base.tokenizer.cls_token_id
    assert base.uninitialised == ()


@pytest.mark.parametrize(("quantize", "error"), [("nf4", 0.35), ("int8", 0.03)])
def test_a_quantised_base_is_near_the_unquantised(tiny_base: Path, quantize: str, error: float) -> None:
    plain, base = load_base(str(tiny_base)), load_base(str(tiny_base), quantize)
    assert base.quantization == quantize
    linear = {name for name, layer in plain.backbone.named_modules() if isinstance(layer, nn.Linear)}
    assert quantised_names(base) == linear
    difference = ((hidden(base) - hidden(plain)).norm() / hidden(plain).norm()).item()
    assert 0 < difference < error


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("with_head", [BertForMaskedLM, BertForSequenceClassification])
def test_the_head_of_the_checkpoint_does_not_decide_what_is_quantised(
    tiny_base: Path, tmp_path: Path, quantize: str, with_head: type[BertForMaskedLM]
) -> None:
    with_head.from_pretrained(tiny_base).save_pretrained(tmp_path / "headed")
    plain, headed = load_base(str(tiny_base), quantize), load_base(str(tmp_path / "headed"), quantize)
    pooler = {"pooler.dense"} if headed.uninitialised else set()
    assert quantised_names(plain) - quantised_names(headed) == pooler
    assert torch.equal(hidden(plain), hidden(headed))


@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_a_part_without_weights_is_named_and_the_same_every_time(
    tiny_base: Path, tmp_path: Path, quantize: str | None
) -> None:
    BertModel.from_pretrained(tiny_base, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = load_base(str(tmp_path / "bare"), quantize)
    assert torch.equal(torch.random.get_rng_state(), state)
    second = load_base(str(tmp_path / "bare"), quantize)
    assert first.uninitialised == second.uninitialised == ("pooler",)
    layer, again = (base.backbone.get_submodule("pooler.dense") for base in (first, second))
    assert isinstance(layer, nn.Linear)
    assert isinstance(again, nn.Linear)
    assert type(layer) is type(again) in PLAIN
    assert torch.equal(layer.weight, again.weight)
    assert layer.weight.std() > 0


@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_a_causal_model_keeps_its_head_unquantised(llama: Path, quantize: str | None) -> None:
    base = load_base(str(llama), quantize)
    assert type(base.model) is LlamaForCausalLM
    assert base.backbone is base.model.model
    assert type(base.model.lm_head) in PLAIN
    assert base.tokenizer is None
    projections = {name for name, _ in base.backbone.named_modules() if name.endswith("_proj")}
    assert quantised_names(base) == (projections if quantize else set())


def test_other_families_load_with_their_own_class(tmp_path: Path) -> None:
    t5 = T5Config(vocab_size=160, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    base = load_base(str(tmp_path / "t5"), "nf4")
    assert type(base.model) is T5ForConditionalGeneration
    assert type(base.model.lm_head) in PLAIN
    gpt2 = GPT2Config(
        vocab_size=160, n_positions=64, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(gpt2).save_pretrained(tmp_path / "gpt2")
    base = load_base(str(tmp_path / "gpt2"), "int8")
    assert quantised_names(base) == {
        f"h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_bfloat16_on_request(tiny_base: Path) -> None:
    base = load_base(str(tiny_base), dtype="bfloat16")
    assert base.dtype == torch.bfloat16
    assert hidden(base).dtype == torch.bfloat16


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_dtype("auto", torch.device("cuda", 0)) == torch.float16
    assert choose_dtype("bfloat16", torch.device("cuda", 0)) == torch.bfloat16


def test_resolving_reads_no_weights_and_agrees_with_loading(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_base(str(tiny_base))
    monkeypatch.setattr(module, "_load", None)
    found = resolve_base(str(tiny_base))
    assert found.fingerprint == loaded.fingerprint
    assert isinstance(found.config, BertConfig)
    assert found.path == tiny_base.absolute()


def test_loading_and_running_say_nothing(
    tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    BertForMaskedLM.from_pretrained(tiny_base).save_pretrained(tmp_path / "headed")
    caplog.clear()
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        for quantize in (None, "nf4", "int8"):
            hidden(load_base(str(tmp_path / "headed"), quantize))
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"quantize": "int4"}, InvalidSettings, "unknown quantisation 'int4'"),
        ({"dtype": "int8"}, InvalidSettings, "unknown dtype 'int8'"),
        ({"device": "cuda:99"}, InvalidSettings, "the device 'cuda:99' does not work here"),
        ({"device": "toaster"}, InvalidSettings, "the device 'toaster' does not work here"),
        ({"revision": "main"}, AdaptHubError, "has no revisions"),
    ],
)
def test_options_that_cannot_work(
    tiny_base: Path, options: dict[str, str], kind: type[AdaptHubError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        load_base(str(tiny_base), **options)


def test_quantising_without_bitsandbytes_says_how_to_get_it(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install bitsandbytes"):
        load_base(str(tiny_base), "nf4")


def test_a_base_that_cannot_fit_is_refused_before_loading(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.adapters.memory.free_memory", lambda device: 50_000)
    with pytest.raises(OutOfMemory, match=r"needs about .* GB and cpu has .* free\. Use quantize='nf4'"):
        load_base(str(tiny_base))


def test_a_missing_weight_is_refused_by_name(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseNotFound, match=r"lacks weights .*: encoder\.layer\.1\.output\.dense\.weight$"):
        load_base(str(copy))


def test_a_weight_of_another_shape_is_refused_by_name(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] = torch.zeros(3, 3)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseNotFound, match=r"encoder\.layer\.1\.output\.dense\.weight is \[3, 3\]"):
        load_base(str(copy))


def test_a_truncated_file_is_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BaseNotFound, match=r"model\.safetensors cannot be read as safetensors"):
        load_base(str(copy))


def test_pickles_are_not_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BaseNotFound, match=r"only as pytorch_model\.bin, and loading a pickle runs its code"):
        load_base(str(copy))


def test_code_that_comes_with_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config.update(model_type="alien", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BaseNotFound, match="transformers cannot read its configuration"):
        load_base(str(copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_checkpoint_that_is_published_quantised(tiny_base: Path, tmp_path: Path, quantize: str) -> None:
    ours = load_base(str(tiny_base), quantize)
    ours.model.save_pretrained(tmp_path / "published")
    published = load_base(str(tmp_path / "published"))
    assert published.quantization == quantize
    assert torch.equal(hidden(published), hidden(ours))
    with pytest.raises(InvalidSettings, match=f"is published in {quantize}"):
        load_base(str(tmp_path / "published"), "nf4")


def test_another_quantisation_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidSettings, match="is published quantised by gptq"):
        load_base(str(copy))


@pytest.mark.gpu
@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_on_a_gpu(tiny_base: Path, quantize: str | None) -> None:
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    base = load_base(str(tiny_base), quantize)
    assert base.device.type == "cuda"
    assert all(parameter.device == base.device for parameter in base.model.parameters())
    plain = load_base(str(tiny_base), device="cpu")
    with torch.inference_mode():
        output = base.backbone(TOKENS.to(base.device)).last_hidden_state.float().cpu()
    assert output.isfinite().all()
    assert (output - hidden(plain)).norm() < 0.4 * hidden(plain).norm()
