"""``python -m triforce.train``: what a Ray job runs. ``--config run.json`` gives a whole `TrainConfig`; flags set
single fields over it, lists and mappings as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from triforce.ingest import storage
from triforce.tokenize.arguments import FieldParser
from triforce.train.config import train_config, train_fields
from triforce.train.job import train


def fields() -> dict[str, str | None]:
    """Return the description of each field of a run by name; each is a flag."""
    return {name: field.description for name, field in train_fields().items()}


def main(argv: list[str] | None = None) -> int:
    parser = FieldParser(
        "python -m triforce.train",
        "Fit a stage: dvae, gpt, diffusion or vocoder.",
        {"config": "URI of a JSON file with the fields of the run"} | fields(),
    )
    arguments: dict[str, Any] = dict(parser.parse(argv))
    config_uri = arguments.pop("config", None)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        settings = json.loads(storage.read_bytes(config_uri)) if config_uri else {}
        for name, text in arguments.items():
            if text[:1] in ("[", "{"):
                arguments[name] = json.loads(text)
        summary = train(train_config(**settings | arguments))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
