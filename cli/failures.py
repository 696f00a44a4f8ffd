"""What a failure looks like at the command line: one line on stderr and an exit code. Catches nothing itself.

Exit codes: 2 for what AdaptHub, the system or the option parser refused, and for training that Ctrl-C stopped
(its checkpoint is kept); 130 for Ctrl-C elsewhere; 1 for a defect. `ADAPTHUB_TRACEBACK=1` adds the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from types import TracebackType

import click

from adapthub.adapters.errors import AdaptHubError
from adapthub.cli.text import one_line
from adapthub.cli.vocabulary import in_options

EXPECTED = (AdaptHubError, click.ClickException, click.Abort, OSError, MemoryError)


def report(error: BaseException) -> int:
    """Print the line for an expected `error` on stderr and return the exit code."""
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        _forget_stdout()  # `adapt list | head -1`: the reader has what it wanted
        return 0
    if not first_process() and not isinstance(error, (OSError, MemoryError)):
        return 2  # said by the first one
    if _wants_traceback():
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    click.echo(f"adapt: {one_line(describe(error))}", err=True)
    return 130 if isinstance(error, click.Abort) else 2


def describe(error: BaseException) -> str:
    """The words for an expected `error`: what was wrong, where, and what to do."""
    match error:
        case AdaptHubError():
            return in_options(error)
        case click.UsageError():
            words = error.format_message()
            where = error.ctx.command_path if error.ctx is not None else "adapt"
            return f"{words}{'' if words.endswith(('.', '?', ')')) else '.'} See {where} --help."
        case click.ClickException():
            return error.format_message()
        case click.Abort():
            return "interrupted"
        case MemoryError():
            return "out of memory. Use a smaller batch, shorter texts, or --quantize nf4."
        case OSError():
            reason = error.strerror or str(error)
            return f"{error.filename}: {reason}" if error.filename is not None else reason
    return str(error)


def report_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: one line that names a defect and says how to see more."""
    if _wants_traceback():
        traceback.print_exception(kind, error, trace)
        return
    click.echo(
        f"adapt: unexpected {kind.__name__}: {one_line(str(error))}. "
        "This is a defect; ADAPTHUB_TRACEBACK=1 shows where.",
        err=True,
    )


def first_process() -> bool:
    """Whether this is the one, of several that a launcher started together, that speaks for all."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def _wants_traceback() -> bool:
    return os.environ.get("ADAPTHUB_TRACEBACK", "") not in ("", "0")


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
