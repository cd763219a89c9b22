"""Command lines of ``python -m triforce.tokenize`` and ``python -m triforce.train``: a flag for each field."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


class FieldParser(argparse.ArgumentParser):
    """A parser with a flag for each field, spelt with dashes or underscores, that refuses a wrong one in one line."""

    def __init__(self, prog: str, description: str, fields: Mapping[str, str | None], required: Sequence[str] = ()):
        """Make the parser.

        Args:
            prog: how the command is called.
            description: what it does, a sentence.
            fields: description of each field by name.
            required: names of fields that have to be given.
        """
        super().__init__(prog=prog, description=description)
        self.required = required
        self.flags = ["--help", *(_flag(name) for name in fields)]
        for name, text in fields.items():
            self.add_argument(
                _flag(name), default=argparse.SUPPRESS, metavar="VALUE", help=(text or "").replace("%", "%%")
            )

    def parse(self, argv: Sequence[str] | None = None) -> dict[str, str]:
        """Return the values that are given, by field; a wrong flag ends the process with a line and exit code 2."""
        words = list(sys.argv[1:] if argv is None else argv)
        arguments, wrong = self.parse_known_args([_with_dashes(word) for word in words])
        if wrong:
            self.error(self._unknown(next(word for word in words if _with_dashes(word) == wrong[0])))
        values = vars(arguments)
        missing = [_flag(name) for name in self.required if name not in values]
        if missing:
            self.error(f"missing {', '.join(missing)}")
        return values

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage, and exit with code 2."""
        print(f"error: {message}; {self.prog} --help lists the flags", file=sys.stderr)
        raise SystemExit(2)

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r}: no flag stands before this value"
        similar = difflib.get_close_matches(_with_dashes(word).partition("=")[0], self.flags, n=1, cutoff=0.5)
        nearest = f"did you mean {similar[0]}?" if similar else "none is spelt like it"
        return f"unknown flag {word.partition('=')[0]}: {nearest}"


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _with_dashes(word: str) -> str:
    """Return a word of the command line, the underscores of a flag's name as dashes; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
