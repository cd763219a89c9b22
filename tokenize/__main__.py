"""``python -m triforce.tokenize``: what a Ray job runs."""

from __future__ import annotations

import argparse
import logging
import sys

from triforce.tokenize.config import TokenizeConfig
from triforce.tokenize.job import tokenize_corpus


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m triforce.tokenize", description="Run the dVAE over a corpus and write token shards."
    )
    for name, field in TokenizeConfig.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            required=field.is_required(),
            default=argparse.SUPPRESS,
            help=field.description,
        )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        summary = tokenize_corpus(TokenizeConfig.model_validate(vars(arguments)))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
