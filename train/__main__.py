"""``python -m triforce.train``: what a Ray job runs. ``--config run.json`` gives a whole `TrainConfig`; flags set
single fields over it, lists and mappings as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys

from triforce.ingest import storage
from triforce.train.config import TrainConfig
from triforce.train.job import train


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m triforce.train", description="Fit a stage: dvae, gpt, diffusion or vocoder."
    )
    parser.add_argument("--config", help="URI of a JSON file with the fields of the run")
    for name, field in TrainConfig.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=field.description)
    arguments = vars(parser.parse_args(argv))
    config_uri = arguments.pop("config")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        settings = json.loads(storage.read_bytes(config_uri)) if config_uri else {}
        for name, text in arguments.items():
            if text[:1] in ("[", "{"):
                arguments[name] = json.loads(text)
        summary = train(TrainConfig.model_validate(settings | arguments))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
