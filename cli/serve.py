"""`adapt serve`: many adapters over one base for many tenants; and `adapt serve status|load|unload|pin|unpin`, which ask a
server that runs.

`runtime.server` serves; here its settings are read and what it is is shown.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.data import find_base
from adapthub.cli.options import (
    base_option,
    complete_names,
    device_option,
    hub_option,
    quantize_option,
    room_options,
)
from adapthub.cli.output import json_option, show_json, show_record, show_table
from adapthub.cli.quiet import quiet_libraries
from adapthub.cli.server_client import Server, asking
from adapthub.cli.text import duration, one_line, size

if TYPE_CHECKING:
    from adapthub.runtime.server.lifecycle import Running

_RANK = 16  # of the adapters that the ready message counts in


@click.group(invoke_without_command=True)
@base_option("none; it must be named")
@quantize_option("none")
@device_option
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16 or float16.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Another than this machine needs tenants."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option(
    "--adapters",
    metavar="NAMES",
    help="Only these, with commas between; * is a wildcard. Those without one are loaded first, at the revision "
    "that they name; clients may ask for their other revisions too.",
)
@click.option(
    "--any",
    "any_adapter",
    is_flag=True,
    help="Every adapter of the hub that fits the base, as without --adapters.",
)
@room_options
@click.option(
    "--queue", metavar="N", type=click.IntRange(min=1), help="Requests that may wait. Default: 1024."
)
@click.option(
    "--drain", type=click.FloatRange(min=0), help="Seconds that running requests get at the end. Default: 30."
)
@click.option(
    "--log-requests", is_flag=True, help="Write down prompts and answers, masked, for adapt feedback export."
)
@click.option("--redact", metavar="REGEX", multiple=True, help="Mask what this matches too. May be repeated.")
@click.option(
    "--redact-with",
    metavar="MODULE:FUNCTION",
    help="Mask texts with a function that keeps their length, too.",
)
@hub_option
@json_option
@click.pass_context
def serve(
    context: click.Context,
    base: str | None,
    quantize: str | None,
    device: str,
    dtype: str,
    host: str,
    port: int,
    adapters: str | None,
    any_adapter: bool,
    kv_tokens: int | None,
    max_rows: int | None,
    slots: int | None,
    queue: int | None,
    drain: float | None,
    log_requests: bool,
    redact: tuple[str, ...],
    redact_with: str | None,
    hub: str | None,
    as_json: bool,
) -> None:
    """Serve a base model and many adapters over it, by HTTP.

    The API is OpenAI's, Hugging Face's and one for administrators. A request names the base, an adapter of the
    hub or a weighted sum of adapters as its model; an adapter is loaded when it is first asked for. Without
    tenants the server is for one user on this machine. Logs go to stderr, as JSON where that is no terminal,
    without any text of requests. SIGTERM and Ctrl-C let running requests end; a second one does not.

    \b
    Example:
      $ adapt serve --base package:smollm2-135m --port 8000
      $ adapt serve --base package:smollm2-135m --quantize nf4 --adapters "acme/*,zeta/tone@prod" --port 0
    """
    if context.invoked_subcommand is not None:
        return
    if not base:
        raise InvalidSettings("adapt serve needs a base model", hint="Name it with --base.")
    if adapters is not None and any_adapter:
        raise InvalidSettings("--adapters and --any exclude each other", hint="Give one of them.")
    if (redact or redact_with) and not log_requests:
        raise InvalidSettings("there is no log of requests to mask", hint="Add --log-requests.")
    quiet_libraries()

    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.runtime.generation import Limits
    from adapthub.runtime.redaction import Redaction
    from adapthub.runtime.server.lifecycle import ServerSettings
    from adapthub.runtime.server.lifecycle import serve as serve_until_signal
    from adapthub.runtime.server.serving import ServerLimits
    from adapthub.web import logs

    given = {"kv_tokens": kv_tokens, "max_rows": max_rows, "queue_limit": queue}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    quantize = None if quantize == "none" else quantize
    base = find_base(base)
    room = _room(base, quantize, device, dtype, limits, slots)
    names = _names(adapters)
    settings = ServerSettings(
        base=base,
        quantize=quantize,
        device=device,
        dtype=dtype,
        adapters=names,
        host=host,
        port=port,
        slots=room.get("slots", slots),
        limits=limits,
        request_log=Redaction(redact, redact_with) if log_requests else None,
        server=ServerLimits() if drain is None else ServerLimits(drain_seconds=drain),
    )
    with logs.shown(sys.stderr):
        serve_until_signal(
            settings,
            announce=lambda running: _show_ready(running, room, names, as_json),
            hub=open_chosen(hub),
        )


def _names(adapters: str | None) -> tuple[str, ...]:
    """The patterns of --adapters. Raises InvalidSettings for none."""
    if adapters is None:
        return ("*",)
    names = tuple(name.strip() for name in adapters.split(",") if name.strip())
    if not names:
        raise InvalidSettings(
            "--adapters names no adapter",
            hint="Leave it out, or give --any, to serve every one of the hub that fits the base.",
        )
    return names


def _room(
    base: str, quantize: str | None, device: str, dtype: str, limits: Any, slots: int | None
) -> dict[str, int]:
    """Slots, and the bytes of one, where the base generates; nothing where it only predicts."""
    from adapthub.runtime.capacity import capacity

    try:
        found = capacity(base, quantize, device, dtype, limits=limits, slots=slots, rank=_RANK)
    except InvalidSettings:  # no language model
        return {}
    return {"slots": max(1, found.slots), "adapter_bytes": found.adapter_bytes}


def _show_ready(running: Running, room: dict[str, int], adapters: tuple[str, ...], as_json: bool) -> None:
    from adapthub.runtime.server.status import status

    found = status(running.serving)
    base, generation = found["base"], found["generation"]
    if as_json:
        show_json({"address": running.address, "room": room, "adapters": list(adapters), **found})
        return
    body = f'{{"model": "{base["name"]}", "prompt": "Ada was", "max_tokens": 16}}'
    key = '-H "Authorization: Bearer $ADAPTHUB_KEY" ' if found["tenants"] else ""
    tokens = "predictions only: it is no language model"
    if generation is not None:
        tokens = f"{generation['kv_tokens']:,} tokens of keys and values, {generation['max_rows']} requests at once"
    slots = (
        f"{room['slots']:,} of {size(room['adapter_bytes'])} (LoRA r{_RANK})" if room else "as many as fit"
    )
    show_record(
        {
            "base": f"{base['name']}, {base['quantize'] or base['dtype']} on {base['device']}",
            "generation": tokens,
            "slots": slots,
            "adapters": "every one of the hub that fits the base"
            if adapters == ("*",)
            else ", ".join(adapters),
            "loaded": f"{found['adapters']['slot']:,}",
            "who": "tenants by key" if found["tenants"] else "no tenants: a single user, on this machine",
            "address": running.address,
        }
    )
    if generation is not None:
        click.echo(f"\n  curl {running.address}/v1/completions {key}-H 'Content-Type: application/json' \\")
        click.echo(f"    -d {shlex.quote(body)}\n")


@serve.command("status")
@asking
def server_status(url: str, key: str | None, as_json: bool) -> None:
    """Show what a running server does and which adapters are where.

    \b
    Example:
      $ adapt serve status
      $ adapt serve status --url http://127.0.0.1:8000 --json
    """
    server = Server(url, key)
    status, adapters = server.get("/admin/status"), server.get("/admin/adapters")["adapters"]
    if as_json:
        show_json({**status, "residents": adapters})
        return
    base, generation, counts = status["base"], status["generation"], status["adapters"]
    record = {
        "state": f"{status['state']}, for {duration(status['uptime'])}",
        "base": f"{base['name']}, {base['quantize'] or base['dtype']} on {base['device']}",
        "requests": f"{status['in_flight']} in flight",
        "free_memory": size(status["memory"]["free"]),
        "adapters": f"{counts['slot']} in slots ({size(counts['slot_bytes'])}), {counts['host']} in host memory "
        f"({size(counts['host_bytes'])}), {counts['disk']} on disk",
    }
    if generation is not None:
        record["generation"] = (
            f"{generation['running']} running, {generation['waiting']} waiting, {generation['free_kv_tokens']:,} of "
            f"{generation['kv_tokens']:,} tokens free, {generation['steps']:,} steps"
        )
    show_record(record)
    click.echo("\nAdapters")
    rows = [{**one, "bytes": size(one["bytes"]), "digest": one["digest"][:19]} for one in adapters]
    show_table(
        rows,
        ("names", "state", "bytes", "pinned", "holders", "uses", "digest"),
        empty="none has been asked for",
    )


@serve.command("load")
@click.argument("model", shell_complete=complete_names)
@asking
def load(model: str, url: str, key: str | None, as_json: bool) -> None:
    """Put the adapter MODEL into a slot of a running server.

    MODEL is a name, with @v3 or @prod if you like, or a weighted sum. Otherwise it is loaded when it is first
    asked for.

    \b
    Example:
      $ adapt serve load acme/sql@prod
    """
    _change("load", "Loaded", model, Server(url, key), as_json)


@serve.command("unload")
@click.argument("model", shell_complete=complete_names)
@asking
def unload(model: str, url: str, key: str | None, as_json: bool) -> None:
    """Take the adapter MODEL out of a running server's memory.

    Requests that run on it end first. It comes back when somebody asks for it.

    \b
    Example:
      $ adapt serve unload acme/sql@prod
    """
    _change("unload", "Unloaded", model, Server(url, key), as_json)


@serve.command("pin")
@click.argument("model", shell_complete=complete_names)
@asking
def pin(model: str, url: str, key: str | None, as_json: bool) -> None:
    """Load the adapter MODEL, and never evict it.

    It stays in its slot until adapt serve unpin, or until the server ends.

    \b
    Example:
      $ adapt serve pin acme/sql@prod
    """
    _change("pin", "Pinned", model, Server(url, key), as_json)


@serve.command("unpin")
@click.argument("model", shell_complete=complete_names)
@asking
def unpin(model: str, url: str, key: str | None, as_json: bool) -> None:
    """Let the adapter MODEL be evicted again.

    \b
    Example:
      $ adapt serve unpin acme/sql@prod
    """
    _change("unpin", "Unpinned", model, Server(url, key), as_json)


def _change(what: str, done: str, model: str, server: Server, as_json: bool) -> None:
    answer = server.post(f"/admin/adapters/{what}", {"model": model})
    if as_json:
        show_json(answer)
    else:
        click.echo(one_line(f"{done} {answer['version']}"))
