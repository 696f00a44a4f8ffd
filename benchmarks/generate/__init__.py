"""Generation with 1 to 128 LoRA adapters (r16, all linear layers) in flight: ours against PEFT and transformers.

    python -m benchmarks.generate [--model smollm2 random] [--quantize none nf4] [--part mixes slots registered misses pages]

One file a part; every request generates NEW tokens greedily, on one set of adapter files.
"""
