"""A training stage on Ray Train: starts the workers, shows progress, resumes, and writes the stage into the release."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import nn
from tqdm import tqdm

from triforce.ingest import storage
from triforce.ingest.corpus.store import Corpus
from triforce.models.audio.mel import MelConfig
from triforce.models.memory import reuse_freed_memory
from triforce.models.release_files import load_card, load_stage, load_tokenizer_of, require_dvae, stage_files
from triforce.tokenize.cluster import connect
from triforce.train.config import TrainConfig
from triforce.train.data.order import Place
from triforce.train.data.stream import streaming
from triforce.train.tasks.diffusion import DiffusionTask
from triforce.train.tasks.dvae import DVAETask
from triforce.train.tasks.gpt import GPTTask, describe
from triforce.train.tasks.vocoder import VocoderTask
from triforce.train.trainer.curves import Curves, as_lines
from triforce.train.trainer.loop import Trainer

log = logging.getLogger(__name__)

SHOWN = ("train/loss", "eval/loss", "eval/l1_nats", "eval/l1_levels", "eval/perplexity", "eval/speech_bits")
"""Metrics behind the progress bar, where there are such."""


@dataclass(frozen=True)
class TrainSummary:
    stage: str
    run_name: str
    hash: str
    steps: int
    wall_s: float
    metrics: dict[str, float]
    skipped: bool
    """The release already held the result of this very run."""


def train(config: TrainConfig, *, progress: bool = True) -> TrainSummary:
    """Fit a stage, or continue where an earlier call of the same config was stopped, and write it into the release."""
    started = time.monotonic()
    config = config.anywhere()  # Ray puts workers into a folder of theirs
    inputs = input_hashes(config)
    run_name = config.run_name(inputs)
    card = _finished(config, run_name)
    if card is not None:
        return _summary(card, run_name, time.monotonic() - started, skipped=True)
    if config.stage == "gpt":
        log.info("train gpt: %s", describe(config))
    connect()
    num_threads = config.threads_per_worker or max(1, (os.cpu_count() or 1) // config.num_workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_name": run_name,
            "inputs": inputs,
            "num_threads": num_threads,
        },
        scaling_config=ScalingConfig(num_workers=_num_workers(config), use_gpu=config.use_gpu),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage.absolute(config.runs),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with _progress_bar(config, run_name) if progress else contextlib.nullcontext():
        trainer.fit()
    card = _finished(config, run_name)
    if card is None:
        raise RuntimeError(
            f"{config.release}/{config.stage}: the workers ended without writing it; their logs are in "
            f"{config.runs}/{run_name}"
        )
    return _summary(card, run_name, time.monotonic() - started, skipped=False)


def input_hashes(config: TrainConfig) -> dict[str, str]:
    """Hashes of what a stage reads: its data, and the dVAE it stands on."""
    hashes = {}
    if config.stage in ("gpt", "diffusion"):
        dvae = require_dvae(config.release)
        hashes["dvae"] = dvae.hash
        coded = dvae.card.get("modality", "speech")
        if config.stage == "diffusion" and coded != config.modality:
            raise ValueError(
                f"modality {config.modality!r}: the dVAE in {config.release} codes {coded}; give modality={coded}"
            )
    if config.latents:
        hashes["gpt"] = _require_gpt(config.release)["hash"]
    if config.stage == "gpt":
        index_uri = storage.join(config.tokens, "index.json")
        if not storage.exists(index_uri):
            raise FileNotFoundError(f"{config.tokens}: no index.json here; run `triforce tokenize`")
        index = storage.read_bytes(index_uri)
        if json.loads(index)["dvae_hash"] != hashes["dvae"]:
            raise ValueError(
                f"{config.tokens} holds codes of dVAE {json.loads(index)['dvae_hash'][:12]}, "
                f"the release has {hashes['dvae'][:12]}; "
                "tokenize again into another folder"
            )
        for uri in config.more_tokens:
            index += storage.read_bytes(storage.join(uri, "index.json"))
        hashes["tokens"] = hashlib.sha256(index).hexdigest()
        if config.init_from is not None:
            hashes["init_from"] = _require_gpt(config.init_from)["hash"]
    else:
        clip_ids = sorted(Corpus(config.corpus).clips(["clip_id"], kept_only=True)["clip_id"].to_pylist())
        if not clip_ids:
            raise ValueError(f"{config.corpus}: no clip to keep; run `triforce ingest`, or loosen the filters")
        hashes["corpus"] = hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()
    return hashes


def _require_gpt(uri: str) -> dict[str, Any]:
    card = load_card(uri, "gpt")
    if card is None:
        raise FileNotFoundError(f"{uri}: no gpt/config.json here; train one first with `triforce train gpt`")
    return card


def _num_workers(config: TrainConfig) -> int | tuple[int, int]:
    """A number, or the range within which Ray goes on with the workers that it can get."""
    return config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers)


def _finished(config: TrainConfig, run_name: str) -> dict[str, Any] | None:
    """The card of the release's stage where this run made it."""
    card = load_card(config.release, config.stage)
    return card if card is not None and card.get("run_name") == run_name else None


def _summary(card: dict[str, Any], run_name: str, wall_s: float, *, skipped: bool) -> TrainSummary:
    return TrainSummary(card["stage"], run_name, card["hash"], card["steps"], wall_s, card["metrics"], skipped)


def _make_task(config: TrainConfig, place: Place, device: torch.device) -> Any:
    torch.manual_seed(config.seed)
    if config.stage == "gpt":
        return GPTTask(config, place, device)
    if config.stage == "dvae":
        return DVAETask(config, place, device)
    if config.stage == "vocoder":
        card = load_card(config.release, "dvae")  # the features of the release, where it has some already
        return VocoderTask(config, place, device, MelConfig.model_validate(card["mel"]) if card else None)
    dvae = require_dvae(config.release, device)
    mel, reader = dvae.card.get("mel"), None
    if config.latents:
        gpt = load_stage(config.release, "gpt", device)
        assert gpt is not None, "input_hashes looked"
        reader = (gpt.model, load_tokenizer_of(config.release))
    return DiffusionTask(config, place, device, dvae.model, MelConfig.model_validate(mel) if mel else None, reader)


def _worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    config = TrainConfig.model_validate(settings["config"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    config = config.for_workers(num_workers)
    torch.set_num_threads(settings["num_threads"])  # Ray gives a worker one thread a core that it reserves
    device = get_device()
    if device.type == "cpu":
        reuse_freed_memory()
    task = _make_task(config, Place(rank, num_workers), device)
    trainer = Trainer(task, config, rank=rank, num_workers=num_workers, device=str(device))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder))
    run_uri = storage.join(config.runs, settings["run_name"])
    with Curves(run_uri, trainer.progress.step) as curves, streaming(task, config):
        trainer.fit(_report, curves)
    averaged = trainer.averaged()
    if rank == 0:
        _write_release(trainer, task, TrainConfig.model_validate(settings["config"]), settings, averaged)


def _report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
    metrics = {"step": trainer.progress.step, **metrics}
    if not save or (trainer.rank and not trainer.sharded):
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="triforce-checkpoint-") as folder:
        trainer.save(Path(folder))
        ray.train.report(metrics, checkpoint=None if trainer.rank else Checkpoint.from_directory(folder))


def _write_release(
    trainer: Trainer, task: Any, config: TrainConfig, settings: dict[str, Any], averaged: nn.Module | None = None
) -> None:
    averaged = trainer.ema if averaged is None else averaged
    history = trainer.progress.history
    card = {
        "run_name": settings["run_name"],
        "inputs": settings["inputs"],
        "training": config.model_dump(mode="json"),
        "steps": trainer.progress.step,
        "training_s": trainer.progress.elapsed_s,
        "metrics": {key: value for entry in history for key, value in entry.items()},  # the last of each
        "versions": {name: version(name) for name in ("triforce", "torch", "ray")},
    }
    if config.stage in ("dvae", "vocoder"):
        card["modality"] = config.modality
        if task.mel_config is not None:
            card["mel"] = json.loads(task.mel_config.model_dump_json())
    else:
        card["dvae_hash"] = settings["inputs"]["dvae"]
    if config.latents:
        card["gpt_hash"] = settings["inputs"]["gpt"]
    if len(getattr(task, "dvae_hashes", {})) > 1:
        card["dvae_hashes"] = task.dvae_hashes
    if hasattr(task, "characters"):
        card["characters"] = task.characters()
    folder = storage.join(config.release, config.stage)
    storage.remove(storage.join(folder, "config.json"))  # no half of an earlier stage may pass for this one
    storage.write_bytes(storage.join(folder, "metrics.jsonl"), as_lines(history))
    model = task.released(averaged) if hasattr(task, "released") else averaged
    for name, data in stage_files(config.stage, model, card, getattr(task, "tokenizer", None)).items():
        storage.write_bytes(storage.join(folder, name), data)


@contextlib.contextmanager
def _progress_bar(config: TrainConfig, run_name: str) -> Iterator[None]:
    """Follow the run's ``metrics.jsonl``, wherever the workers are."""
    uri = storage.join(config.runs, run_name, "metrics.jsonl")
    stop = threading.Event()
    with tqdm(total=config.max_steps, desc=f"train {config.stage}", unit="step", dynamic_ncols=True) as bar:
        thread = threading.Thread(target=_follow, args=(uri, bar, stop.wait), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _show(uri, bar)


def _follow(uri: str, bar: tqdm, wait: Callable[[float], bool]) -> None:
    while not wait(2.0):
        _show(uri, bar)


def _show(uri: str, bar: tqdm) -> None:
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        lines = storage.read_bytes(uri).decode().splitlines()
        latest = {key: value for line in lines for key, value in json.loads(line).items()}
        bar.n = int(latest["step"])
        shown = {
            key: latest[key]
            for key in (
                "train/loss",
                "eval/loss",
                "eval/l1_nats",
                "eval/l1_levels",
                "eval/perplexity",
                "eval/speech_bits",
            )
            if key in latest
        }
        bar.set_postfix(shown)
