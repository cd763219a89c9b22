"""Tables are plain text in columns."""

from __future__ import annotations

import pytest

from triforce.ingest.text_tables import format_table


def test_columns_are_two_spaces_apart_and_numbers_stand_at_the_right():
    text = format_table(("system", "WER %", "95 %", "95 %"), [("Original", "5.1", 12, "-"), ("dVAE", "10.0", 3, "x")])
    assert text.splitlines() == [
        "system    WER %  95 %  95 %",
        "Original    5.1    12     -",
        "dVAE       10.0     3     x",
    ]
    assert format_table(("a", "b"), [("1", "long"), ("2", "s")], left=(0, 1)) == "a  b\n1  long\n2  s"


def test_markup_long_lines_and_empty_cells_come_out_as_they_are():
    wide = "w" * 500
    assert format_table(("", "what"), [("[bold]x[/bold]", wide)]).splitlines()[1] == f"[bold]x[/bold]  {wide}"
    assert format_table(("only",), []) == "only"
    assert format_table(("", "n"), [("Fréchet :smile:", "")]).splitlines() == ["                 n", "Fréchet :smile:"]


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="has 1 cells, the table 2 columns"):
        format_table(("a", "b"), [("1",)])
