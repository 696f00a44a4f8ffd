"""Whether an adapter lands on a base, from names and shapes: the same answer as attaching it, which is the oracle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaConfig

from adapthub.adapters import AdaptedBase, Artifact, Base, load_base
from adapthub.adapters.base import resolve_base
from adapthub.adapters.base_record import MAX_BYTES, KnownBase, record_base
from adapthub.adapters.errors import AdmissionError, ArtifactError, TensorMismatch
from adapthub.adapters.fit import check_fit
from tests.adapters.causal_pass import write_causal_base
from tests.adapters.peft_oracle import ia3_config, lora_config, prefix_config, prompt_config, save_adapter
from tests.conftest import write_tiny_base

TOKENS, TEXT = "token-classification", "text-generation"
LLAMA: dict[str, Any] = {"target_modules": ["q_proj", "k_proj", "down_proj"]}
IA3: dict[str, Any] = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
Edit = Callable[[dict[str, torch.Tensor]], object]


def known(folder: Path) -> KnownBase:
    return record_base(resolve_base(str(folder)))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    gpt2 = GPT2Config(vocab_size=160, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return {
        "bert": write_tiny_base(folder / "bert"),
        "wide": write_tiny_base(folder / "wide", hidden=32),
        "llama": write_causal_base(folder / "llama"),
        "gpt2": write_causal_base(folder / "gpt2", gpt2),
        "short": write_causal_base(folder / "short", num_hidden_layers=1),
        "heads": write_causal_base(folder / "heads", num_key_value_heads=1),
    }


@pytest.fixture(scope="module")
def records(bases: dict[str, Path]) -> dict[str, KnownBase]:
    return {name: known(folder) for name, folder in bases.items()}


@pytest.fixture(scope="module")
def loaded(bases: dict[str, Path]) -> dict[str, Base]:
    return {name: load_base(str(folder), device="cpu") for name, folder in bases.items()}


CASES: dict[str, tuple[str, str, PeftConfig]] = {
    "bert lora": ("bert", TOKENS, lora_config(TOKENS)),
    "bert dora": ("bert", TOKENS, lora_config(TOKENS, use_dora=True)),
    "bert patterns": (
        "bert",
        TOKENS,
        lora_config(TOKENS, rank_pattern={"query": 2, r"layer\.1\..*\.key": 3}),
    ),
    "bert bias": ("bert", TOKENS, lora_config(TOKENS, bias="all")),
    "bert saved": ("bert", TOKENS, lora_config(TOKENS, modules_to_save=["LayerNorm"])),
    "bert words": ("bert", TOKENS, lora_config(TOKENS, target_modules=["query", "word_embeddings"])),
    "bert ia3": ("bert", TOKENS, ia3_config(TOKENS)),
    "bert prefix": ("bert", TOKENS, prefix_config(TOKENS)),
    "llama lora": ("llama", TEXT, lora_config(TEXT, **LLAMA)),
    "llama head": ("llama", TEXT, lora_config(TEXT, target_modules=["v_proj", "lm_head", "embed_tokens"])),
    "llama saved": ("llama", TEXT, lora_config(TEXT, target_modules=["q_proj"], modules_to_save=["norm"])),
    "llama ia3": ("llama", TEXT, ia3_config(TEXT, **IA3)),
    "llama prefix": ("llama", TEXT, prefix_config(TEXT)),
    "llama prompt": ("llama", TEXT, prompt_config(TEXT)),
    "gpt2 lora": ("gpt2", TEXT, lora_config(TEXT, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
}


@pytest.fixture(scope="module")
def adapters(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        case: save_adapter(bases[base], folder / case.replace(" ", "-"), task, config)
        for case, (base, task, config) in CASES.items()
    }


def refusal(record: KnownBase, artifact: Artifact) -> str | None:
    try:
        check_fit(record, artifact.config, artifact.shapes)
    except TensorMismatch as error:
        return str(error)
    return None


def attaches(base: Base, artifact: Artifact) -> bool:
    adapted = AdaptedBase(base)
    try:
        adapted.attach(artifact)
    except ArtifactError:
        return False
    finally:
        adapted.close()
    return True


@pytest.mark.parametrize("case", CASES)
def test_what_peft_saves_fits_its_base_and_refused_is_what_could_not_be_attached(
    case: str, adapters: dict[str, Path], records: dict[str, KnownBase], loaded: dict[str, Base]
) -> None:
    """On its own base, and on every other."""
    for name, record in records.items():
        artifact = Artifact.read(adapters[case])
        said = refusal(record, artifact)
        if name == CASES[case][0]:
            assert said is None
        if said is not None:
            assert not attaches(loaded[name], artifact), said
            assert record.id in said


def test_every_wrong_base_of_one_family_is_found(
    adapters: dict[str, Path], records: dict[str, KnownBase]
) -> None:
    """A base of another width, with fewer layers, with fewer heads: PEFT itself warns of neither."""
    for case, base, words in (
        ("bert lora", "wide", "needs"),
        ("bert dora", "wide", "needs"),
        ("bert ia3", "wide", "needs"),
        ("bert prefix", "wide", "needs"),
        ("bert lora", "llama", "has no module"),
        ("llama lora", "short", r"has no module 'model\.layers\.1\."),
        ("llama ia3", "short", "has no module"),
        ("llama prefix", "short", "needs"),
        ("llama lora", "heads", r"k_proj\.lora_B"),
        ("llama prefix", "heads", "prompt_embeddings"),
        ("llama prompt", "gpt2", "needs"),
        ("gpt2 lora", "llama", "has no module"),
    ):
        artifact = Artifact.read(adapters[case])
        with pytest.raises(TensorMismatch, match=words):
            check_fit(records[base], artifact.config, artifact.shapes)


def move(old: str, new: str) -> Edit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return edit


def add(key: str, *shape: int) -> Edit:
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


def transpose(ending: str) -> Edit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(ending))
        tensors[key] = tensors[key].T.contiguous()

    return edit


@pytest.mark.parametrize(
    ("case", "edit", "named"),
    [
        ("bert lora", move("layer.1.", "layer.7."), "layer.7."),
        ("bert lora", move("query", "qeury"), "qeury"),
        ("bert lora", transpose("query.lora_A.weight"), "query.lora_A.weight"),
        ("bert lora", transpose("query.lora_B.weight"), "query.lora_B.weight"),
        ("bert lora", move("query.lora_", "query.lora_embedding_"), "lora_embedding_"),
        ("bert lora", move("attention.output.dense", "attention.output.LayerNorm"), "LayerNorm"),
        ("bert lora", add("base_model.model.bert.encoder.layer.0.output.dense.weight", 64, 128), "output.dense.weight"),
        ("bert lora", add("base_model.model.somewhere.weight", 3), "somewhere"),
        ("bert lora", add("elsewhere.weight", 3), "elsewhere.weight"),
        ("bert saved", add("base_model.model.bert.embeddings.LayerNorm.gamma", 64), "gamma"),
        ("bert bias", add("base_model.model.bert.encoder.layer.0.output.dense.bias", 65), "output.dense.bias"),
        ("bert dora", move("query.lora_magnitude_vector", "query.lora_magnitude"), "lora_magnitude"),
        ("bert ia3", transpose("key.ia3_l"), "key.ia3_l"),
        ("bert ia3", transpose("output.dense.ia3_l"), "output.dense.ia3_l"),
        ("bert prefix", add("base_model.bert.pooler.dense.weight", 64, 64), "pooler"),
        ("llama prompt", add("base_model.model.lm_head.weight", 3, 3), "lm_head"),
        ("llama head", add("base_model.model.lm_head.weight", 3, 3), "lm_head.weight"),
    ],
)  # fmt: skip
def test_one_tensor_that_does_not_land_is_named(
    case: str,
    edit: Edit,
    named: str,
    adapters: dict[str, Path],
    records: dict[str, KnownBase],
    loaded: dict[str, Base],
    tmp_path: Path,
) -> None:
    folder, base = tmp_path / "edited", CASES[case][0]
    shutil.copytree(adapters[case], folder)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    edit(tensors)
    save_file(tensors, weights, {"format": "pt"})
    artifact = Artifact.read(folder)
    said = refusal(records[base], artifact)
    assert said is not None
    assert named in said
    assert not attaches(loaded[base], artifact)


def test_a_record_is_the_same_every_time_and_comes_back(bases: dict[str, Path]) -> None:
    record = known(bases["llama"])
    assert known(bases["llama"]).to_json() == record.to_json()
    assert KnownBase.from_json(record.to_json(), "base.json") == record
    assert record.fingerprint == resolve_base(str(bases["llama"])).fingerprint
    assert record.kinds["lm_head"] == "linear"
    assert (record.prefix, record.backbone, record.output) == ("model", "model", "lm_head")


def test_a_record_has_the_shapes_of_the_weights(
    records: dict[str, KnownBase], loaded: dict[str, Base]
) -> None:
    for name, base in loaded.items():
        real = {key: tuple(value.shape) for key, value in base.model.named_parameters(remove_duplicate=False)}
        assert records[name].parameters == real


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"weights": "x"}, "weights"),
        ({"fingerprint": {"weights": "x"}}, "fingerprint"),
        ({"parameters": {"a": [-1]}}, "parameters"),
        ({"parameters": {"a": [2**60]}}, "parameters"),
        ({"parameters": {"a": [1] * 9}}, "parameters"),
        ({"kinds": {"a": "recurrent"}}, "kinds"),
        ({"id": "x" * 501}, "id"),
        ({"layers": "2"}, "layers"),
    ],
)
def test_records_from_strangers_are_refused_by_field(
    change: dict[str, Any], words: str, records: dict[str, KnownBase]
) -> None:
    document = {**json.loads(records["bert"].to_json()), **change}
    with pytest.raises(AdmissionError, match=words):
        KnownBase.from_json(json.dumps(document).encode(), "base.json")


def test_a_record_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(AdmissionError, match="bytes"):
        KnownBase.from_json(b" " * (MAX_BYTES + 1), "base.json")


def test_a_hub_needs_no_torch_for_it(
    bases: dict[str, Path], adapters: dict[str, Path], records: dict[str, KnownBase], tmp_path: Path
) -> None:
    (tmp_path / "base.json").write_bytes(records["bert"].to_json())
    script = (
        "import sys; from pathlib import Path\n"
        "from adapthub.adapters.artifact import Artifact\n"
        "from adapthub.adapters.base_record import KnownBase\n"
        "from adapthub.adapters.fit import check_fit\n"
        "base = KnownBase.from_json(Path(sys.argv[1]).read_bytes(), 'base.json')\n"
        "artifact = Artifact.read(sys.argv[2])\n"
        "check_fit(base, artifact.config, artifact.shapes)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "base.json"), str(adapters["bert lora"])],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_sizes_that_a_family_names_otherwise(records: dict[str, KnownBase]) -> None:
    assert records["gpt2"].kinds["transformer.h.0.attn.c_attn"] == "conv1d"
    assert (records["gpt2"].hidden_size, records["gpt2"].layers, records["gpt2"].head_size) == (32, 2, 16)
    sizes = LlamaConfig.from_pretrained(records["llama"].id)
    assert records["llama"].key_value_heads == sizes.num_key_value_heads
