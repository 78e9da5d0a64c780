"""Tables for people: through rich, with or without a terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120  # where there is no terminal to ask


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    right: Collection[str] = (),
) -> Table:
    """Return a rich table of plain text; the columns named in `right` are right-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    result = Table(title=title, caption=caption, box=box.SIMPLE_HEAD if "utf" in encoding else box.ASCII)
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def below(upper: Any, text: str) -> Any:
    """Return `upper` with a line of text under it."""
    from rich.console import Group
    from rich.text import Text

    return Group(upper, Text(text))


def render(renderable: Any) -> str:
    """Return what rich prints, in colour only where standard output is a terminal."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
