"""What `make bench-gpu` runs, as far as can be without a GPU: every program is there, and computes what it compares."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted

interpreted_or_on_a_gpu()

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROGRAMS = [
    words[words.index("-m") + 1]
    for line in (Path(__file__).parents[2] / "Makefile").read_text().splitlines()
    if "$(ON_GPU)" in line and "benchmarks." in line and "-m" in (words := line.split())
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_there(name: str) -> None:
    if name == "benchmarks.train_nf4":
        pytest.importorskip("bitsandbytes")
    assert callable(import_module(name).main)


def test_all_of_them_are_looked_at() -> None:
    assert {"benchmarks.nf4", "benchmarks.low_rank", "benchmarks.train_nf4"} <= {*PROGRAMS}


@pytest.mark.parametrize("tokens", [6, pytest.param(70, marks=slow_when_interpreted)])
def test_our_ways_to_add_low_ranks_are_what_is_compared(tokens: int) -> None:
    from benchmarks.low_rank import Batch

    torch.manual_seed(0)
    batch = Batch(tokens, 3, (4, 20), 64, (32, 16, 16), torch.float32, DEVICE, copies=1)
    for way in (batch.ours, batch.by_token, batch.by_runs):
        assert batch.error(way) < 1e-5


@slow_when_interpreted
def test_every_way_to_train_learns_the_same() -> None:
    pytest.importorskip("bitsandbytes")
    from benchmarks.train_nf4 import WAYS, adapted, train

    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_attention_heads=2, num_hidden_layers=1
    )
    model = adapted(config, DEVICE)
    losses = [train(model, way, 1, 40, 2)[2] for way in WAYS]
    assert losses == pytest.approx([losses[0]] * len(WAYS), rel=0.02)


def test_a_compiler_that_ends_its_process_ends_no_benchmark() -> None:
    from benchmarks.nf4 import on_all_cores

    on_all_cores(os._exit, [(1,), (1,)])


def test_the_roofline_is_the_decode_ceiling_that_is_known() -> None:
    from argparse import Namespace

    from benchmarks.roofline import counted

    h100 = Namespace(gbs=3350, tflops=989, cache_gbs=5500)
    ceilings = [counted(32, 1, adapters, 16, h100)["ceiling"] for adapters in (1, 8, 32)]
    assert ceilings == pytest.approx([0.982, 0.874, 0.634], abs=0.01)
