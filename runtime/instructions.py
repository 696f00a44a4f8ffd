"""How an adapter was trained to be asked: the words around a text, and how long an answer may be.

Training and serving make the same tokens of the same text by these functions. Does not generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.chat_templates import BASE_STYLE, ChatStyle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOURCE = "{source}"
"""Where the text goes in a prompt."""


@dataclass(frozen=True)
class Instruction:
    """What the adapter of a recipe ("translate", "summarize") wants: `prompt` has SOURCE in it; `style` says what ends an
    answer, `is_read` that an encoder reads the prompt, which then begins and ends as its texts do."""

    recipe: str
    prompt: str
    max_new_tokens: int
    style: ChatStyle = BASE_STYLE
    is_read: bool = False

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """The tokens that the answer about `text` follows. Raises InvalidInput for an empty text."""
        if not text.strip():
            raise InvalidInput("the text is empty", hint="Leave it out.")
        prompt = self.prompt.replace(SOURCE, text)
        return read_ids(tokenizer, prompt) if self.is_read else prompt_ids(tokenizer, prompt)


def instruction_of(artifact: Artifact) -> Instruction | None:
    """What the manifest records; None for an adapter that was trained on texts as they are."""
    manifest = artifact.manifest
    if manifest is None or manifest.recipe is None:
        return None
    prompt, tokens = (manifest.hyperparameters.get(name) for name in ("prompt", "max_new_tokens"))
    if not isinstance(prompt, str) or SOURCE not in prompt or type(tokens) is not int:
        return None
    end = manifest.hyperparameters.get("turn_end")
    style = ChatStyle(turn_end=end) if isinstance(end, str) else BASE_STYLE
    is_read = type(manifest.hyperparameters.get("decoder_start")) is int
    return Instruction(manifest.recipe, prompt, tokens, style, is_read)


def read_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of a prompt that an encoder reads."""
    return all_read_ids(tokenizer, [prompt])[0]


def all_read_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """The same of several prompts, at most `max_length` of each."""
    cut = max_length is not None
    return list(tokenizer([*prompts], truncation=cut, max_length=max_length, verbose=False)["input_ids"])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens that an answer follows: a user's message where the base has a chat template, else a line of its own."""
    return all_prompt_ids(tokenizer, [prompt])[0]


def all_prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """The same of several prompts."""
    if tokenizer.chat_template is None:
        return _plain(tokenizer, prompts)
    texts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        tokenize=False,
        add_generation_prompt=True,
    )
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def plain_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens that an answer follows, without a chat template."""
    return _plain(tokenizer, [prompt])[0]


def _plain(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    found = tokenizer([f"{prompt}\n" for prompt in prompts])["input_ids"]
    # Some tokenizers end every text; a prompt goes on.
    return [ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids for ids in found]
