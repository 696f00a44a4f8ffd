"""Adapters of speech models that PEFT itself made and saved, and those models as PEFT loads them: the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

WHISPER = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
WAV2VEC2 = r".*\.(q_proj|k_proj|v_proj|out_proj|intermediate_dense|output_dense|projection)"
KINDS: dict[str, tuple[Any, str]] = {
    "whisper": (AutoModelForSpeechSeq2Seq, WHISPER),
    "wav2vec2": (AutoModelForCTC, WAV2VEC2),
    "wav2vec2-unmasked": (AutoModelForCTC, WAV2VEC2),
}


def save_speech_adapter(base: Path, folder: Path, kind: str, *, seed: int = 0, **options: Any) -> Path:
    """An adapter that PEFT made and saved, its A and B random."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": KINDS[kind][1]}
    torch.manual_seed(seed)
    model = get_peft_model(plain(base, kind), LoraConfig(init_lora_weights=False, **(settings | options)))
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    return folder


def plain(base: Path, kind: str) -> Any:
    return KINDS[kind][0].from_pretrained(base, dtype=torch.float32).eval()


def by_peft(base: Path, kind: str, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(plain(base, kind), str(adapter)).eval()
