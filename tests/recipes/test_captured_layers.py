"""Layers that are replayed: gradients are those of layers that run, whatever comes between. On a GPU as CUDA graphs;
elsewhere what is recorded runs again, in the same order and the same places."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from adapthub.recipes.captured_layers import captured
from adapthub.recipes.layer_graphs import Cuda, fits

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYERS = 3
SIZES = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
)


class Counted:
    """A recorder that counts; of a GPU's graphs, or of work that runs again."""

    def __init__(self, *, fits: bool = True) -> None:
        self.recorded = self.replayed = self.forgotten = 0
        self.begun: list[tuple[int, int]] = []
        self._fits = fits
        self._cuda = Cuda(DEVICE) if DEVICE.type == "cuda" else None

    def taken(self) -> int:
        return self._cuda.taken() if self._cuda else 0

    def begin(self, taken: int, beside: int) -> bool:
        self.begun.append((taken, beside))
        return self._fits and (self._cuda is None or self._cuda.begin(taken, beside))

    def warm(self, work: Callable[[], None]) -> None:
        if self._cuda:
            self._cuda.warm(work)
        else:
            work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        if self._cuda:
            replay = self._cuda.record(work)
        else:
            with Working() as working:
                work()
            assert working.operations  # of a capture of nothing CUDA warns
            replay = work

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted

    def forget(self) -> None:
        self.forgotten += 1
        if self._cuda:
            self._cuda.forget()


class Working(TorchDispatchMode):
    """Counts what a GPU would launch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not function.is_view
        return function(*args, **kwargs or {})


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(SIZES).to(DEVICE)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, **options)
    return get_peft_model(base, config).train()


def ids(rows: int = 2, tokens: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(97, (rows, tokens), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def loss(model: Any, given: torch.Tensor, **inputs: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=given, labels=given, use_cache=False, **inputs).loss
    return found


def gradients(model: Any, *batches: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
    """Of several batches, one after the other."""
    model.zero_grad()
    for given in batches:
        loss(model, given, **inputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_third_pass_of_a_shape_is_replayed_with_the_same_gradients() -> None:
    model, recorder = adapted(), Counted()
    plain = [gradients(model, ids(seed=seed)) for seed in range(5)]
    with captured(model, lambda: recorder):
        for seed, wanted in enumerate(plain):
            assert_same(gradients(model, ids(seed=seed)), wanted)
            assert recorder.replayed == max(0, seed - 1) * 2 * LAYERS
    assert recorder.recorded == 2 * LAYERS
    gradients(model, ids())
    assert recorder.replayed == 3 * 2 * LAYERS


def test_gradients_that_accumulate_are_summed() -> None:
    model, recorder = adapted(), Counted()
    batches = [ids(seed=seed) for seed in range(6)]
    wanted = gradients(model, *batches)
    with captured(model, lambda: recorder):
        assert_same(gradients(model, *batches), wanted)
        assert_same(gradients(model, *batches), wanted)
    assert recorder.replayed == 10 * 2 * LAYERS


def test_weights_that_move_are_read_again() -> None:
    model, recorder = adapted(), Counted()
    trained = [p for p in model.parameters() if p.requires_grad]
    with captured(model, lambda: recorder):
        for seed in range(4):
            gradients(model, ids(seed=seed))
        with torch.no_grad():
            for parameter in trained:
                parameter.mul_(1.5)
        replayed = gradients(model, ids(seed=9))
    assert recorder.replayed == 3 * 2 * LAYERS
    assert_same(replayed, gradients(model, ids(seed=9)))


def test_other_shapes_and_masks_in_turn() -> None:
    model, recorder = adapted(), Counted()
    mask = torch.ones_like(ids()).index_fill(1, torch.tensor([10, 11], device=DEVICE), 0)
    kinds: list[tuple[torch.Tensor, dict[str, Any]]] = [
        (ids(), {}),
        (ids(1, 7), {}),
        (ids(), {"attention_mask": mask}),
    ]
    plain = [gradients(model, given, **inputs) for given, inputs in kinds]
    with captured(model, lambda: recorder):
        for _ in range(4):
            for (given, inputs), wanted in zip(kinds, plain, strict=True):
                assert_same(gradients(model, given, **inputs), wanted)
    assert recorder.replayed == 2 * 3 * 2 * LAYERS


def test_a_pass_within_anothers_runs_as_always() -> None:
    model, recorder = adapted(), Counted()
    wanted = gradients(model, ids(seed=1), ids(seed=2))
    with captured(model, lambda: recorder):
        for _ in range(3):
            gradients(model, ids())
        model.zero_grad()
        first, second = loss(model, ids(seed=1)), loss(model, ids(seed=2))
        assert recorder.replayed == 2 * LAYERS + LAYERS
        (first + second).backward()
    assert_same({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, wanted)


def test_a_pass_whose_gradients_nobody_asked_for_holds_nothing_up() -> None:
    model, recorder = adapted(), Counted()
    wanted = gradients(model, ids(seed=2))
    with captured(model, lambda: recorder):
        for _ in range(3):
            gradients(model, ids())
        dropped = loss(model, ids(seed=1))
        del dropped
        assert_same(gradients(model, ids(seed=2)), wanted)
    assert recorder.replayed == 3 * LAYERS + 2 * LAYERS


def test_evaluation_between_steps_is_not_replayed() -> None:
    model, recorder = adapted(), Counted()
    plain = model(input_ids=ids()).logits.detach()
    with captured(model, lambda: recorder):
        for _ in range(3):
            gradients(model, ids())
        ran = recorder.replayed
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids()).logits, plain, rtol=1e-4, atol=1e-5)
        assert recorder.replayed == ran


def test_what_does_not_fit_runs_as_always() -> None:
    model, recorder = adapted(), Counted(fits=False)
    with captured(model, lambda: recorder):
        for _ in range(4):
            gradients(model, ids())
    assert not recorder.recorded


def test_a_cache_is_not_captured() -> None:
    model, recorder = adapted(), Counted()
    with captured(model, lambda: recorder):
        for _ in range(4):
            model(input_ids=ids(), labels=ids(), use_cache=True).loss.backward()
    assert not recorder.recorded


def test_layers_that_cannot_be_captured_run_as_always(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Counted):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("not permitted")

    model = adapted()
    wanted = gradients(model, ids())
    with captured(model, Refusing):
        for _ in range(4):
            assert_same(gradients(model, ids()), wanted)
    assert caplog.text.count("cannot be captured") == 1


def test_a_shape_that_cannot_be_captured_takes_the_others_memory_with_it() -> None:
    """Whose graphs would be kept, and not be replayed any more."""
    kept: list[weakref.ref[Any]] = []

    class Refusing(Counted):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            if self.recorded == 2 * LAYERS:
                raise RuntimeError("not permitted")
            replay = super().record(work)
            kept.append(weakref.ref(replay))
            return replay

    model, recorder = adapted(), Refusing()
    with captured(model, lambda: recorder):
        for _ in range(4):
            gradients(model, ids())
        assert recorder.replayed == 2 * 2 * LAYERS
        assert all(replay() is not None for replay in kept)
        for _ in range(3):
            gradients(model, ids(1, 7))
        gc.collect()
        assert not any(replay() is not None for replay in kept)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="CUDA alone has captures that fail so")
def test_a_capture_that_fails_leaves_random_numbers_as_they_were() -> None:
    model, recorder, other = adapted(lora_dropout=0.5), Counted(), Counted()
    layer = model.get_base_model().model.layers[1]

    class Looking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.sum().item() == x.sum()
            return x

    layer.input_layernorm = torch.nn.Sequential(layer.input_layernorm, Looking())
    with captured(model, lambda: recorder):
        for _ in range(2):
            gradients(model, ids())
        state = torch.cuda.get_rng_state()
        plain = gradients(model, ids())
        after = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(state)
        assert_same(gradients(model, ids()), plain)
        assert torch.equal(torch.cuda.get_rng_state(), after)
    assert not recorder.replayed
    whole = adapted(lora_dropout=0.5)
    with captured(whole, lambda: other):
        for _ in range(4):
            gradients(whole, ids())
    assert other.replayed == 2 * 2 * LAYERS


def test_units_are_dropped_anew_in_every_pass() -> None:
    model, recorder = adapted(lora_dropout=0.5), Counted()
    with captured(model, lambda: recorder):
        first, second = [gradients(model, ids()) for _ in range(4)][2:]
    assert recorder.replayed == 4 * LAYERS
    assert any((first[name] - second[name]).abs().max() > 1e-4 for name in first)


def test_encoders_with_a_head_that_trains() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4
    )
    base: Any = BertForSequenceClassification(config)
    base.to(DEVICE)
    lora = LoraConfig(
        target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    model, recorder = get_peft_model(base, lora).eval(), Counted()

    def learnt(seed: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(input_ids=ids(seed=seed), labels=torch.tensor([0, 1], device=DEVICE)).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = [learnt(seed) for seed in range(4)]
    with captured(model, lambda: recorder):
        for seed, wanted in enumerate(plain):
            assert_same(learnt(seed), wanted)
    assert recorder.replayed == 2 * 2 * LAYERS


def test_layers_of_two_lists_are_recorded_apart() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    )
    base: Any = BartForConditionalGeneration(config)
    base.to(DEVICE)
    lora = LoraConfig(target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False)
    model, recorders = get_peft_model(base, lora).eval(), [Counted(), Counted()]
    waiting = iter(recorders)
    plain = [gradients(model, ids(seed=seed)) for seed in range(5)]
    with captured(model, lambda: next(waiting)):
        for seed, wanted in enumerate(plain):
            assert_same(gradients(model, ids(seed=seed)), wanted)
    assert [recorder.replayed for recorder in recorders] == [3 * 2 * LAYERS] * 2


def test_shared_biases_without_gradients_and_frozen_first_layers() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
    config = T5Config(vocab_size=97, **sizes | {"decoder_start_token_id": 0})
    base: Any = T5ForConditionalGeneration(config)
    base.to(DEVICE)
    lora = LoraConfig(target_modules=["q", "v"], layers_to_transform=[1, 2], init_lora_weights=False)
    model, recorders = get_peft_model(base, lora).eval(), [Counted(), Counted()]
    waiting = iter(recorders)
    plain = [gradients(model, ids(seed=seed)) for seed in range(4)]
    with captured(model, lambda: next(waiting)):
        for seed, wanted in enumerate(plain):
            assert_same(gradients(model, ids(seed=seed)), wanted)
    assert all(recorder.replayed for recorder in recorders)


def test_as_where_training_computes_in_fewer_bits() -> None:
    model, recorder = adapted(), Counted()
    seen: list[bool] = []

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled(DEVICE.type))
            return gradient

    class Heard(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, cast(Any, Noting).apply(x))

    layer = model.get_base_model().model.layers[1]
    layer.input_layernorm = torch.nn.Sequential(layer.input_layernorm, Heard())

    def learnt() -> dict[str, torch.Tensor]:
        model.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = loss(model, ids())
        found.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = learnt()
    with captured(model, lambda: recorder):
        for _ in range(4):
            for name, gradient in learnt().items():
                torch.testing.assert_close(gradient, plain[name], rtol=1e-2, atol=1e-3, msg=name)
    assert recorder.replayed == 2 * 2 * LAYERS
    assert not any(seen)


def test_weights_that_are_put_elsewhere_are_captured_anew() -> None:
    model, recorder = adapted(), Counted()
    with captured(model, lambda: recorder):
        for _ in range(3):
            gradients(model, ids())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data * 1.5
        ran = recorder.replayed
        changed = gradients(model, ids())
        assert recorder.replayed == ran
        assert_same(gradients(model, ids()), changed)
        assert_same(gradients(model, ids()), changed)
    assert recorder.replayed == ran + 2 * LAYERS
    assert_same(gradients(model, ids()), changed)


def test_graphs_that_are_given_up_give_back_their_pool() -> None:
    """One that all graphs have left cannot be captured into again."""
    model, recorder = adapted(), Counted()
    with captured(model, lambda: recorder):
        for tokens in (12, 9):
            for _ in range(3):
                gradients(model, ids(tokens=tokens))
        assert recorder.recorded == 2 * 2 * LAYERS
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data * 1.5
        for tokens in (12, 9):
            for _ in range(3):
                gradients(model, ids(tokens=tokens))
    assert (recorder.forgotten, recorder.recorded) == (1, 2 * 2 * 2 * LAYERS)


@pytest.mark.parametrize(
    ("taken", "beside", "free", "is_kept"),
    [(10, 0, 60, True), (45, 0, 100, False), (10, 0, 12, False), (20, 40, 60, False), (20, 30, 60, True)],
)
def test_what_is_kept_leaves_room_for_what_is_not(taken: int, beside: int, free: int, is_kept: bool) -> None:
    assert fits(taken, beside, free, total=100) is is_kept


def test_the_largest_pass_that_runs_as_always_is_known() -> None:
    class Measured(Counted):
        """Of a device where a pass takes as many bytes as it has tokens."""

        def taken(self) -> int:
            self.asked = getattr(self, "asked", 0) + 1
            return 0 if self.asked % 2 else tokens

    model, recorder = adapted(), Measured()
    with captured(model, lambda: recorder):
        for tokens in (24, 12, 12, 12, 9, 9, 9):
            gradients(model, ids(tokens=tokens))
    assert recorder.begun == [(12, 24), (9, 24)]


def test_few_passes_are_noted_at_a_time() -> None:
    """Each keeps what it was given until it comes again, and of many lengths most never do."""
    model, recorder = adapted(), Counted()
    given: list[StorageWeakRef] = []
    layer = model.get_base_model().model.layers[0]
    with captured(model, lambda: recorder):
        replaced = layer.forward

        def noting(hidden: torch.Tensor, **options: Any) -> Any:
            given.append(StorageWeakRef(hidden.untyped_storage()))
            return replaced(hidden, **options)

        layer.forward = noting
        for tokens in range(5, 20):
            for _ in range(2):
                gradients(model, ids(tokens=tokens))
        gc.collect()
        assert sum(not each.expired() for each in given) <= 8
        for _ in range(2):  # noted anew
            gradients(model, ids(tokens=5))
        layer.forward = replaced
    assert recorder.replayed == 2 * LAYERS


class Doubling(GradientCheckpointingLayer):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8, device=DEVICE)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x) * other)


def test_a_tensor_that_is_given_twice_has_one_gradient() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Doubling(), Doubling()])

        def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x, x if other is x else other)
            return x

    torch.manual_seed(0)
    model, recorder = Model(), Counted()
    given = torch.randn(2, 5, 8, device=DEVICE)

    def learnt(twice: bool) -> dict[str, torch.Tensor]:
        model.zero_grad()
        x = given.clone().requires_grad_()
        model(x, x if twice else (given + 1).requires_grad_()).square().sum().backward()
        assert x.grad is not None
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {**found, "x": x.grad}

    plain = [learnt(twice=twice) for twice in (True, False)]
    with captured(model, lambda: recorder):
        for _ in range(4):
            for twice, wanted in zip((True, False), plain, strict=True):
                assert_same(learnt(twice=twice), wanted)
    assert recorder.replayed == 2 * 2 * 2 * 2


def test_what_hooks_would_hear_is_not_captured() -> None:
    model, recorder = adapted(), Counted()
    heard: list[int] = []
    part = model.get_base_model().model.layers[1].mlp
    part.register_forward_hook(lambda module, given, output: heard.append(len(output)))
    with captured(model, lambda: recorder):
        for _ in range(4):
            gradients(model, ids())
    assert not recorder.recorded
    assert len(heard) == 4


def test_models_that_say_more_than_they_return_are_not_captured() -> None:
    model, recorder = adapted(), Counted()
    model.get_base_model().config = copy.deepcopy(SIZES)
    model.get_base_model().config.output_hidden_states = True
    with captured(model, lambda: recorder):
        for _ in range(4):
            gradients(model, ids())
    assert not recorder.recorded


def test_a_pass_that_was_noted_holds_nothing_that_layers_made() -> None:
    model, recorder = adapted(), Counted()
    made: list[weakref.ref[torch.Tensor]] = []
    layers = model.get_base_model().model.layers
    with captured(model, lambda: recorder):
        replaced = layers[1].forward

        def noting(hidden: torch.Tensor, **options: Any) -> Any:
            made.append(weakref.ref(hidden))
            return replaced(hidden, **options)

        layers[1].forward = noting
        for tokens in range(5, 9):
            for _ in range(2):
                gradients(model, ids(tokens=tokens))
        layers[1].forward = replaced
    gc.collect()
    assert len(made) == 8
    assert not any(ref() is not None for ref in made)


def test_gradients_of_a_replay_are_made_once() -> None:
    model, recorder = adapted(), Counted()
    with captured(model, lambda: recorder):
        for _ in range(2):
            gradients(model, ids())
        found = loss(model, ids())
        found.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="made once"):
            found.backward()
