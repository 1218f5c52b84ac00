"""The message for a name that is in no table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["unknown_name"]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns what to tell a user who asked for ``name``: the closest known name, if any is close, and all of them.

    Args:
        kind: what the name should name, e.g. ``"stream"``.
        name: what was asked for.
        known: the names that exist, in the order to show them.
    """
    candidates = list(known)
    folded = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}expected one of {', '.join(candidates) or '(none)'}"
