"""``python -m triforce.tokenize``: what a Ray job runs."""

from __future__ import annotations

import logging
import sys

from triforce.tokenize.arguments import FieldParser
from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.job import tokenize_corpus


def main(argv: list[str] | None = None) -> int:
    fields = TokenizeConfig.model_fields
    parser = FieldParser(
        "python -m triforce.tokenize",
        "Run the dVAE over a corpus and write token shards.",
        {name: field.description for name, field in fields.items()},
        required=[name for name, field in fields.items() if field.is_required()],
    )
    arguments = parser.parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        summary = tokenize_corpus(TokenizeConfig.model_validate(arguments))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
