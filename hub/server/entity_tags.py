"""Whether a client has what it asks for already: If-None-Match, as RFC 9110 (13.1.2) has it. Does not make tags."""

from __future__ import annotations


def held(if_none_match: str | None, etag: str) -> bool:
    """Whether the header's value, tags or `*`, has `etag`, which is quoted: compared weakly, so that what a proxy made of a
    tag is it too."""
    if if_none_match is None:
        return False
    tags = [tag.strip() for tag in if_none_match.split(",")]
    return tags == ["*"] or etag in (tag.removeprefix("W/") for tag in tags)
