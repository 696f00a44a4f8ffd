"""Small random bases that write down speech, with real processors, and sound for them. What they write means nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

RATE = 16_000
WINDOW = 2  # seconds that the small Whisper reads
_END, _START = 50257, 50258  # as in the multilingual checkpoints
_VOCABULARY = 51865


def write_small_whisper(folder: Path, *, seed: int = 0) -> Path:
    """A random Whisper of 2 + 2 layers of 32 over a window of 2 s, with the tokens of the multilingual checkpoints."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=_VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=WINDOW * 50,
        decoder_start_token_id=_START,
        eos_token_id=_END,
        bos_token_id=_END,
        pad_token_id=_END,
        init_std=0.3,
    )
    model = WhisperForConditionalGeneration(config)
    tokenizer = _whisper_tokenizer(folder)
    model.generation_config = _generation(tokenizer)
    model.save_pretrained(folder)
    extractor = cast(Any, WhisperFeatureExtractor)(feature_size=80, chunk_length=WINDOW)
    cast(Any, WhisperProcessor)(extractor, tokenizer).save_pretrained(folder)
    return folder


def write_small_wav2vec2(folder: Path, *, seed: int = 0, masked: bool = True) -> Path:
    """A random Wav2Vec2 with a CTC head over upper-case letters; `masked`: whether it reads attention masks, as the large
    checkpoints do."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(letters)}))
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        feat_extract_norm="layer" if masked else "group",
        do_stable_layer_norm=masked,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
        mask_time_prob=0.0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = cast(Any, Wav2Vec2FeatureExtractor)(return_attention_mask=masked, do_normalize=True)
    tokenizer = cast(Any, Wav2Vec2CTCTokenizer)(str(folder / "vocab.json"))
    cast(Any, Wav2Vec2Processor)(extractor, tokenizer).save_pretrained(folder)
    return folder


def tone(seconds: float, *, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    """A chord in noise, which every seed makes another."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    pitches = generator.uniform(100, 3000, size=4)
    sound = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) / 5
    return np.asarray(sound + generator.normal(0, 0.02, size=len(time)), dtype=np.float32)


def wav(samples: NDArray[Any], rate: int = RATE, form: str = "WAV") -> bytes:
    """A file's bytes."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def _whisper_tokenizer(folder: Path) -> WhisperTokenizer:
    """Bytes, fillers, and the special tokens where the multilingual checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [f"filler{at}" for at in range(len(alphabet), _END)]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    codes = [*LANGUAGES][:99]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in codes)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    tokenizer.add_special_tokens([*special, "<|notimestamps|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    return WhisperTokenizer(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=end,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )


def _generation(tokenizer: WhisperTokenizer) -> Any:
    def number(token: str) -> int:
        return cast(int, tokenizer.convert_tokens_to_ids(token))

    return cast(Any, GenerationConfig)(
        decoder_start_token_id=_START,
        eos_token_id=_END,
        bos_token_id=_END,
        pad_token_id=_END,
        no_timestamps_token_id=number("<|notimestamps|>"),
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": number(f"<|{code}|>") for code in [*LANGUAGES][:99]},
        task_to_id={task: number(f"<|{task}|>") for task in ("transcribe", "translate")},
        max_length=448,
        max_initial_timestamp_index=50,
        suppress_tokens=[],
        begin_suppress_tokens=[220, _END],
        return_timestamps=False,
    )
