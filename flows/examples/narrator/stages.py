"""The stages of the voice that comes along, each a process of its own: ``python -m ... stages STAGE WORK``.

``WORK`` holds ``config.json``, the packs ``speech`` and ``sound``, ``codes.npz`` and the ``release``.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triforce.flows.examples.narrator.codes import read_codes, write_codes
from triforce.flows.examples.narrator.config import NarratorConfig
from triforce.flows.examples.piper.make_pack import make_pack
from triforce.flows.examples.piper.synthesise import SynthesisConfig
from triforce.ingest import storage
from triforce.models.gpt import GPTShape
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.release_files import require_dvae, stage_files
from triforce.train.config import train_config
from triforce.train.data.order import Place, is_validation
from triforce.train.data.packed.pack import Pack
from triforce.train.data.reading_corpus import ReadingConfig, ReadingCorpus, ReadingTexts
from triforce.train.job import train
from triforce.train.launch import checkpoints
from triforce.train.tasks.gpt_loss import speech_vocabulary
from triforce.train.tasks.reading import ReadingTask
from triforce.train.trainer.config import LoopConfig, OptimizerConfig
from triforce.train.trainer.curves import as_lines
from triforce.train.trainer.loop import Trainer

log = logging.getLogger(__name__)

FOREVER = 1_000_000
"""Steps that no run reaches: the minutes end it."""
VALIDATION_SHARE = 0.005


class Work:
    """The working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = NarratorConfig.model_validate_json((folder / "config.json").read_text())
        self.release, self.runs = str(folder / "release"), str(folder / "runs")
        self.device = torch.device(self.config.device)

    @property
    def prepared(self) -> Path:
        """The prepared sentences and voice, a link."""
        return self.folder / "prepared"

    def pack(self, name: str) -> Path:
        return self.folder / name

    def note(self, stage: str, figures: dict[str, Any]) -> None:
        """Keep a stage's figures."""
        (self.folder / f"{stage}.json").write_text(json.dumps(figures, indent=1))
        log.info("%s: %s", stage, json.dumps(figures))


def speech(work: Work, name: str = "speech") -> None:
    """Speak the sentences into a pack of mels; ``sound`` is another with the waveforms, of fewer hours."""
    config, sound = work.config, name == "sound"
    figures = make_pack(
        work.prepared,
        work.pack(name),
        hours=(config.sound_hours if sound else config.hours) * config.share,
        minutes=config.minutes("speech") * (0.4 if sound else 1.0),
        device=config.device,
        samples=sound,
        config=SynthesisConfig(seed=config.seed + sound, half=config.on_gpu),
    )
    work.note(name, figures)


def dvae(work: Work) -> None:
    """Train encoder, codes and decoder."""
    config = work.config
    _train(
        work,
        "dvae",
        stage="dvae",
        max_minutes=config.minutes("dvae"),
        corpus=str(work.pack("speech")),
        crop_frames=config.crop_frames,
        batch_size=config.dvae_batch,
        model={"quantizer": "fsq", "fsq_levels": config.fsq_levels, "hidden": config.dvae_hidden},
        optimizer={"learning_rate": 1e-3, "warmup_steps": 200, "ema_decay": 0.999, "decay_share": 0.7},
        **_taught(config),
    )
    figures = write_codes(Pack(work.pack("speech")), work.release, work.folder / "codes.npz", work.device)
    work.note("codes", figures)


def decoder(work: Work) -> None:
    """Go on with the decoder alone: the codes stay."""
    config, before = work.config, work.folder / "before"
    if not before.exists():  # the release is written while its own dVAE is where training begins
        shutil.copytree(Path(work.release) / "dvae", before / "dvae")
    _train(
        work,
        "decoder",
        stage="dvae",
        init_from=str(before),
        train_only=["decoder*", "head*"],
        max_minutes=config.minutes("decoder"),
        corpus=str(work.pack("speech")),
        crop_frames=config.crop_frames,
        batch_size=config.dvae_batch,
        model={"quantizer": "fsq", "fsq_levels": config.fsq_levels, "hidden": config.dvae_hidden},
        optimizer={"learning_rate": 5e-4, "warmup_steps": 50, "ema_decay": 0.999, "decay_share": 1.0},
        **_taught(config),
    )


def vocoder(work: Work) -> None:
    """Train the vocoder on true mels and on what the dVAE decodes."""
    config = work.config
    _train(
        work,
        "vocoder",
        stage="vocoder",
        size="small",
        max_minutes=config.minutes("vocoder"),
        corpus=str(work.pack("sound")),
        batch_size=config.vocoder_batch,
        decoded_share=0.7,
        optimizer={"decay_share": 0.7},
    )


def texts(work: Work) -> None:
    """Turn all sentences into pieces, beside the dVAE's training: it takes the CPU half a minute."""
    started, clips = time.monotonic(), Pack(work.pack("speech")).clips
    timed = ((clip["text"], [tuple(word) for word in clip["words"]]) for clip in clips)
    found = ReadingTexts.make(PhonemeTokenizer(), timed)
    found.save(work.folder / "texts.npz")
    figures = {"sentences": len(clips), "untimed": int((~found.timed).sum()), "wall_s": time.monotonic() - started}
    work.note("texts", figures)


def gpt(work: Work) -> None:
    """Train the transformer to read."""
    config, pack = work.config, Pack(work.pack("speech"))
    stage = require_dvae(work.release)
    tokenizer = PhonemeTokenizer()
    clips = pack.clips
    codes = read_codes(work.folder / "codes.npz")
    vocabulary = speech_vocabulary(tokenizer.size, stage.model.config.num_codes, reading=True)
    settings = ReadingConfig(seed=config.seed, text_dropout=config.text_dropout)
    whole = ReadingCorpus(codes, ReadingTexts.load(work.folder / "texts.npz"), vocabulary, settings)
    held = np.array([is_validation(clip["clip_id"], VALIDATION_SHARE) for clip in clips])
    held[0] |= not held.any()
    shape = GPTShape(
        num_layers=config.gpt_layers,
        width=config.gpt_width,
        num_heads=config.gpt_heads,
        pointer=True,
        dropout=config.dropout,
        max_positions=2 * config.context,
    )
    torch.manual_seed(config.seed)
    task = ReadingTask(
        whole.subset(np.flatnonzero(~held)),
        whole.subset(np.flatnonzero(held)[:512]),
        shape,
        context=config.context,
        num_rows=config.gpt_rows,
        place=Place(0, 1),
        device=work.device,
        code_noise=config.code_noise,
        tokenizer=tokenizer,
    )
    loop = LoopConfig(
        seed=config.seed,
        max_steps=FOREVER,
        max_minutes=config.minutes("gpt"),
        eval_every=500,
        log_every=50,
        optimizer=OptimizerConfig(
            learning_rate=config.gpt_rate, warmup_steps=200, ema_decay=0.999, weight_decay=0.1, decay_share=0.8
        ),
    )
    trainer = Trainer(task, loop, device=config.device)
    if config.on_gpu:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
        for block in trainer.task.model.blocks:
            block.compile()
    run_uri = storage.join(work.runs, "gpt")
    found = checkpoints.newest(run_uri)
    if found is not None:
        trainer.load(Path(storage.resolve(found[1])[1]))

    def report(trainer: Trainer, metrics: dict[str, float], save: bool) -> None:
        if save and not config.on_gpu:
            checkpoints.write(trainer, run_uri)

    trainer.fit(report, lambda history: _show("gpt", history))
    history = trainer.state.history
    card = {
        "run_name": "narrator",
        "dvae_hash": stage.codes_hash,
        "steps": trainer.state.step,
        "training_s": trainer.state.elapsed_s,
        "metrics": {key: value for entry in history for key, value in entry.items()},
        "characters": "".join(sorted({letter for clip in clips[:5000] for letter in clip["text"]})),
    }
    trainer.ema.to("cpu")
    storage.write_bytes(storage.join(work.release, "gpt", "metrics.jsonl"), as_lines(history))
    for name, data in stage_files("gpt", trainer.ema, card, tokenizer).items():
        storage.write_bytes(storage.join(work.release, "gpt", name), data)
    work.note("gpt", card["metrics"] | {"steps": trainer.state.step})


def _train(work: Work, name: str, **fields: Any) -> None:
    optimizer = fields.pop("optimizer")
    places: dict[str, Any] = {"release": work.release, "runs": str(Path(work.runs) / name)}
    common: dict[str, Any] = {
        "max_steps": FOREVER,
        "eval_every": 1000,
        "log_every": 50,
        "validation_share": VALIDATION_SHARE,
    }
    common |= {
        "use_gpu": work.config.on_gpu,
        "launcher": "here",
        "seed": work.config.seed,
        "checkpoint_every_s": 3600.0,
    }
    summary = train(train_config(**(places | common | fields), optimizer=optimizer), progress=False)
    work.note(name, summary.metrics | {"steps": summary.steps, "wall_s": summary.wall_s})


def _taught(config: NarratorConfig) -> dict[str, Any]:
    if not config.teacher:
        return {}
    return {"teacher": "whisper", "teacher_model": config.teacher_model, "teacher_weight": config.teacher_weight}


def _show(name: str, history: list[dict[str, float]]) -> None:
    log.info("%s %s", name, json.dumps({key: round(value, 4) for key, value in history[-1].items()}))


STAGES: dict[str, Callable[[Work], None]] = {
    "speech": speech,
    "sound": lambda work: speech(work, "sound"),
    "texts": texts,
    "dvae": dvae,
    "decoder": decoder,
    "vocoder": vocoder,
    "gpt": gpt,
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work = Work(Path(sys.argv[2]))
    failed = []
    for name in sys.argv[1].split(","):
        try:
            STAGES[name](work)
        except Exception:  # what can go on without it is worth having
            log.exception("%s failed", name)
            failed.append(name)
    if failed:
        sys.exit(f"{', '.join(failed)} failed")


if __name__ == "__main__":
    main()
