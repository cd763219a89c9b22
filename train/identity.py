"""What makes two runs the same run: the name of a run is a hash of the fields that decide its result.

Every field of every stage's config is in one of the tables, by a test. A new field that decides the result goes into
`ADDED`, with the value that a run without the field counts as having: so runs keep their names, and continue, when a
field is added.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SET = ...
"""Marks a field that every stage has."""

IDENTITY: dict[str, Any] = {
    "stage": SET,
    "size": SET,
    "model": SET,
    "optimizer": SET,
    "train_only": SET,
    "max_steps": SET,
    "max_minutes": SET,
    "batch_size": SET,
    "accumulation": SET,
    "validation_share": SET,
    "seed": SET,
    "num_workers": SET,
    "sharding": SET,
    "use_gpu": SET,
    "precision": SET,
    "compile": SET,
    # They decide the curves beside the weights
    "eval_every": SET,
    "eval_clips": SET,
    "log_every": SET,
    # Clips
    "modality": "speech",
    "crop": None,
    "crop_frames": 144,
    "speed_jitter": 0.0,
    "latents": False,
    # Tokens
    "join_on": "clip_id",
    "voice_codes": 117,
    "init_from": None,
    "context": 512,
    "layouts": {"text>speech": 1.0},
    "code_noise": 0.0,
    "side_by_side": False,
    "checkpoint_activations": False,
    # Of tokens, and of the vocoder's losses
    "loss_weights": {"text": 0.1},
}
"""Fields that decide a run's result, and what a stage without them counts as having: the defaults of the one config
that all stages once shared.
"""

ADDED: dict[str, Any] = {
    **{"whole_clips": False, "codes": False, "pieces": False, "sampler": None},
    "cuda_graph": False,
    **{"teacher": None, "teacher_weight": 1.0, "teacher_every": 1, "channel_jitter": 0.0},
    "shrink": 1,
    **{"periods": (), "decoded_share": 0.0, "restored": False},
    **{"spelled_share": 0.12, "text_dropout": 0.0},
}
"""Fields that came later and decide a run's result, each hashed only where it is not what runs without it had."""

NOT_IDENTITY = frozenset(
    {
        # Where things lie: what is read has a hash of its own
        "release",
        "runs",
        "corpus",
        "tokens",
        "more_tokens",
        "teacher_model",
        # How fast and how safely the same result is reached
        "launcher",
        "min_workers",
        "threads_per_worker",
        "max_failures",
        "check_memory",
        "checkpoint_every_s",
        "cache_bytes",
        "prefetch",
        "readers_per_worker",
        "cpus_per_reader",
    }
)
"""Fields that change nothing about the result."""

EARLIER_NAMES = {"target": "flows"}
"""Fields of ``model`` by the names that they are hashed under."""


def run_name(fields: dict[str, Any], inputs: dict[str, str]) -> str:
    """The stage and a hash of the fields in `IDENTITY` and `ADDED` of a config's dump and of what the run reads."""
    values = {name: fields.get(name, default) for name, default in IDENTITY.items()}
    added = {name: list(value) if isinstance(value, tuple) else value for name, value in ADDED.items()}  # as in JSON
    values |= {name: fields[name] for name, default in added.items() if fields.get(name, default) != default}
    if fields["stage"] == "vocoder" and not fields["loss_weights"]:
        values["loss_weights"] = IDENTITY["loss_weights"]  # its default was the GPT's, of which it read nothing
    values["model"] = {EARLIER_NAMES.get(name, name): value for name, value in fields["model"].items()}
    text = json.dumps([values, inputs], sort_keys=True)
    return f"{fields['stage']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
