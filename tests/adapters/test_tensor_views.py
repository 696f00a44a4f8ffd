"""Views of a file's bytes against safetensors' own loading."""

from __future__ import annotations

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from adapthub.adapters.safetensors_header import check_safetensors
from adapthub.adapters.tensor_views import tensor_views

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=6
    ),
    st.integers(0, 9),
)
def test_views_are_what_safetensors_loads(layout: list[tuple[torch.dtype, list[int]]], blanks: int) -> None:
    generator = torch.Generator().manual_seed(blanks)
    content = {
        f"t{index}": torch.randint(0, 2, shape, generator=generator).to(dtype)
        for index, (dtype, shape) in enumerate(layout)
    }
    data = _shifted(save(content), blanks)
    ours = tensor_views(bytearray(data), check_safetensors(data, "file"))
    theirs = load(data)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_aligned_tensors_share_the_bytes() -> None:
    data = bytearray(save({"a": torch.ones(2, 3), "b": torch.zeros(4)}))
    views = tensor_views(data, check_safetensors(data, "file"))
    views["b"].fill_(5)
    assert torch.equal(load(bytes(data))["b"], torch.full((4,), 5.0))


def _shifted(data: bytes, blanks: int) -> bytes:
    """The same file with a header that is `blanks` longer, so that its tensors lie elsewhere."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length])).encode() + b" " * blanks
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
