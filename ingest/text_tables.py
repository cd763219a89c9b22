"""Tables as plain text: columns two spaces apart, without boxes or colours."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 10_000
"""Columns of the page that tables are laid out on, so that no line is ever wrapped."""


def format_table(head: Sequence[str], rows: Iterable[Sequence[object]], left: Collection[int] = (0,)) -> str:
    """Return a line for ``head`` and one for each row, without spaces at their ends.

    ``left`` are the columns that stand at the left of their width; the others, numbers as a rule, stand at the right.
    Raises ValueError for a row that has more or fewer cells than ``head``.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for column in range(len(head)):
        table.add_column(justify="left" if column in left else "right", no_wrap=True)
    for row in (head, *rows):
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells, the table {len(head)} columns: {tuple(row)}")
        table.add_row(*(Text(str(cell)) for cell in row))
    page = Console(file=io.StringIO(), width=WIDEST, color_system=None, force_terminal=False, legacy_windows=False)
    with page.capture() as captured:
        page.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
