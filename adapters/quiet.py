"""Silence what libraries say on every load or call although nothing is wrong, each by its exact words.

Other warnings of the same loggers pass. Does not change log levels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from transformers.utils import logging as transformers_logs

_bars = cast(Any, transformers_logs)

# Every int8 layer call that is not fp16, and a kernel that AVX-512 machines could fetch from a hub.
_QUANTISATION = {
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}


class _Without(logging.Filter):
    """Drops records whose message contains the given words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in str(record.msg)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar and no load report: the report's content is checked by the caller instead."""
    logger = logging.getLogger("transformers.modeling_utils")
    silencer = _Without("LOAD REPORT")
    shown = _bars.is_progress_bar_enabled()
    _bars.disable_progress_bar()
    logger.addFilter(silencer)
    try:
        yield
    finally:
        logger.removeFilter(silencer)
        if shown:
            _bars.enable_progress_bar()


def quiet_quantisation() -> None:
    """For the rest of the process, and once however often it is called."""
    for name, words in _QUANTISATION.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in logger.filters):
            logger.addFilter(_Without(words))
