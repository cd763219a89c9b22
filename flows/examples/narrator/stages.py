"""The stages of the voice that comes along, each a process of its own: ``python -m ... stages STAGE WORK``.

``WORK`` holds ``config.json``, the time of the ``ends``, the pack ``speech``, ``codes.npz`` and the ``release``.
"""

from __future__ import annotations

import copy
import json
import logging
import math
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
from triforce.flows.examples.narrator.times import refine_pack
from triforce.flows.examples.narrator.voices import write_voices
from triforce.flows.examples.piper.make_pack import make_pack
from triforce.flows.examples.piper.synthesise import Manner, SynthesisConfig
from triforce.ingest import storage
from triforce.models.gpt import GPT, GPTConfig, GPTShape
from triforce.models.reading.phonemes import PhonemeTokenizer
from triforce.models.release_files import load_card, load_stage, require_dvae, stage_files
from triforce.models.voice.bundled import located
from triforce.train.config import train_config
from triforce.train.data.order import Place, is_validation
from triforce.train.data.packed.pack import Pack
from triforce.train.data.tokens.reading_corpus import ReadingConfig, ReadingCorpus, ReadingTexts
from triforce.train.data.tokens.rows import PackedBatch
from triforce.train.job import train
from triforce.train.tasks.gpt_loss import packed_loss, speech_vocabulary
from triforce.train.tasks.reading import ReadingTask
from triforce.train.trainer.config import LoopConfig, OptimizerConfig
from triforce.train.trainer.curves import as_lines
from triforce.train.trainer.loop import Trainer

log = logging.getLogger(__name__)

FOREVER = 1_000_000
"""Steps that no run reaches: the minutes end it."""
VALIDATION_SHARE = 0.005
SPARE_MIN = 0.06
"""Minutes in which the last weights are written."""
SPECTRA_SHARE = 0.43
"""Share of the vocoder's minutes on a CPU for spectra alone, as for the voice that comes along: 6.5 of 15."""
SPECTRA: dict[str, Any] = {
    "loss_weights": {},
    "periods": (),
    "optimizer": {"decay_share": 0.6, "learning_rate": 1e-3},
}
"""No discriminators: 6.3 steps of 16 crops a second on two cores, where all eight leave under 2 of 8."""
DIFFUSION_TEACHER_WEIGHT = 4.0
"""Weight of the teacher's loss for the diffusion network, whose own loss is mostly noise that nothing can foretell."""
SHARPENING = {"decay_share": 0.6, "learning_rate": 5e-4}


class Work:
    """The working folder, and the time left."""

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        """``plain``: without CUDA graphs and compiled blocks."""
        self.folder, self.plain = folder, plain
        self.config = NarratorConfig.model_validate_json((folder / "config.json").read_text())
        self.release, self.runs = str(folder / "release"), str(folder / "runs")
        self.device = torch.device(self.config.device)
        self.ends = float((folder / "ends").read_text())

    @property
    def prepared(self) -> Path:
        """The prepared sentences and voice, a link."""
        return self.folder / "prepared"

    @property
    def pack(self) -> Path:
        """The speech."""
        return self.folder / "speech"

    @property
    def minutes_left(self) -> float:
        """Minutes until all must be done."""
        return max(0.02, (self.ends - time.time()) / 60)

    def minutes_before(self, *later: str) -> float:
        """Minutes until the time of stages that come behind this one, or where all run at once, until the end."""
        config = self.config
        shares = {"diffusion": config.diffusion * config.diffusion_share, "vocoder": config.vocoder_share}
        kept = config.minutes * sum(shares[name] for name in later) if config.in_turn else SPARE_MIN
        return max(0.02, self.minutes_left - kept)

    def note(self, stage: str, figures: dict[str, Any]) -> None:
        """Keep a stage's figures, which also says that it is done."""
        (self.folder / f"{stage}.json").write_text(json.dumps(figures, indent=1))
        log.info("%s: %s", stage, json.dumps(figures))

    def wait_for(self, *stages: str) -> None:
        """Wait until stages are done that run beside this one; raises RuntimeError where the time is over first."""
        while not all((self.folder / f"{stage}.json").exists() for stage in stages):
            if time.time() > self.ends:
                raise RuntimeError(f"{', '.join(stages)}: not done when the time was over")
            time.sleep(0.2)


def speech(work: Work) -> None:
    """Speak sentences into a pack."""
    config = work.config
    figures = make_pack(
        work.prepared,
        work.pack,
        hours=config.hours,
        minutes=config.minutes * config.speech_share,
        device=config.device,
        samples=True,
        config=SynthesisConfig(
            manner=Manner(config.noise_scale, config.noise_w, config.length_scale),
            seed=config.seed,
            half=config.on_gpu,
        ),
    )
    if config.refine_times:
        figures |= refine_pack(work.pack)
    work.note("speech", figures)


def dvae(work: Work) -> None:
    """Train the dVAE, and encode the speech."""
    config, corpus = work.config, work.pack
    if config.init_from is not None:
        shutil.copytree(Path(located(config.init_from)) / "dvae", Path(work.release) / "dvae", dirs_exist_ok=True)
        work.note("codes", write_codes(Pack(work.pack), work.release, work.folder / "codes.npz", work.device))
        return
    if config.other_hours:
        corpus = work.folder / "voices"
        work.note("voices", write_voices(Pack(work.pack), corpus, config.other_hours, config.seed))
    _train(
        work,
        "dvae",
        stage="dvae",
        corpus=str(corpus),
        channel_jitter=config.channel_jitter,
        max_minutes=config.minutes * config.dvae_share,
        crop_frames=config.crop_frames,
        batch_size=config.dvae_batch,
        model={
            "quantizer": "fsq",
            "fsq_levels": config.fsq_levels,
            "hidden": config.dvae_hidden,
            "folded": config.dvae_folded,
        },
        optimizer={"warmup_steps": 200, "ema_decay": 0.998, "decay_share": 0.6, "max_grad_norm": 5.0},
        **(_taught(config) if config.teacher else {}),
    )
    work.note("codes", write_codes(Pack(work.pack), work.release, work.folder / "codes.npz", work.device))


def vocoder(work: Work) -> None:
    """Train the vocoder on true mels and on what the dVAE decodes. On a CPU, where discriminators take four fifths of a
    step, spectra alone teach it first, and then the discriminators of spectrograms sharpen it.
    """
    config = work.config
    base = config.init_from if config.init_from is not None and load_card(config.init_from, "vocoder") else None
    minutes = work.minutes_left - SPARE_MIN
    if config.on_gpu:
        _train_vocoder(work, work.release, minutes, init_from=base)
        return
    if base is None:
        base = str(work.folder / "spectra")
        shutil.copytree(Path(work.release) / "dvae", Path(base) / "dvae", dirs_exist_ok=True)
        _train_vocoder(work, base, SPECTRA_SHARE * minutes, **SPECTRA, batch_size=2 * config.vocoder_batch)
        minutes = work.minutes_left - SPARE_MIN
    _train_vocoder(work, work.release, minutes, init_from=base, periods=(), optimizer=SHARPENING)


def _train_vocoder(work: Work, release: str, minutes: float, **fields: Any) -> None:
    common: dict[str, Any] = {
        "size": "small",
        "release": release,
        "max_minutes": max(0.01, minutes),
        "batch_size": work.config.vocoder_batch,
        "decoded_share": 0.7,
        "restored": load_card(release, "diffusion") is not None,
        "optimizer": {"decay_share": 0.6},
    }
    _train(work, "vocoder", stage="vocoder", **(common | fields))


def texts(work: Work) -> None:
    """Turn all sentences into pieces, beside the dVAE's training: it takes the CPU half a minute."""
    started, clips = time.monotonic(), Pack(work.pack).clips
    timed = ((clip["text"], [tuple(word) for word in clip["words"]]) for clip in clips)
    found = ReadingTexts.make(PhonemeTokenizer(), timed)
    found.save(work.folder / "texts.npz")
    figures = {"sentences": len(clips), "untimed": int((~found.timed).sum()), "wall_s": time.monotonic() - started}
    work.note("texts", figures)


def gpt(work: Work) -> None:
    """Train the transformer to read: made and compiled while the dVAE is trained, then on its codes."""
    config, tokenizer = work.config, PhonemeTokenizer()
    vocabulary = speech_vocabulary(tokenizer.size, math.prod(config.fsq_levels), reading=True)
    shape = GPTShape(
        num_layers=config.gpt_layers,
        width=config.gpt_width,
        num_heads=config.gpt_heads,
        pointer=True,
        reading_units=config.reading_units,
        dropout=config.dropout,
        max_positions=2 * config.context,
    )
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(vocabulary=vocabulary, **shape.model_dump()))
    if config.init_from is not None:
        model.load_state_dict(_require_gpt(config.init_from, model.config).state_dict())
    settings = ReadingConfig(seed=config.seed, text_dropout=config.text_dropout, units=config.reading_units)
    if not work.plain and (config.on_gpu or config.in_turn):
        _compile(work, model)
    work.wait_for("codes", "texts")
    stage, pack = require_dvae(work.release), Pack(work.pack)
    readable = ReadingTexts.load(work.folder / "texts.npz")
    whole = ReadingCorpus(read_codes(work.folder / "codes.npz"), readable, vocabulary, settings)
    held = np.array([is_validation(clip["clip_id"], VALIDATION_SHARE) for clip in pack.clips])
    held[0] |= not held.any()
    task = ReadingTask(
        whole.subset(np.flatnonzero(~held)),
        whole.subset(np.flatnonzero(held)[:512]),
        model,
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
        max_minutes=work.minutes_before("diffusion", "vocoder"),
        eval_every=config.eval_every,
        log_every=100,
        checkpoint_every_s=config.save_every_s,
        optimizer=OptimizerConfig(
            learning_rate=config.gpt_rate, warmup_steps=100, ema_decay=0.998, weight_decay=0.1, decay_share=0.8
        ),
    )
    trainer = Trainer(task, loop, device=config.device)

    best = _BestGPT(work, trainer, task, stage.codes_hash)
    if config.diffusion:
        best.write_unjudged()  # untrained: the diffusion network waits for its front end
    trainer.fit(lambda *_: best.write_unjudged(), best.look)
    work.note("gpt", best.metrics | {"steps": trainer.state.step})


def diffusion(work: Work) -> None:
    """Train what restores the decode, told the codes and the phonemes: its mean, so that speech can be streamed."""
    config, base = work.config, work.config.init_from
    while load_card(work.release, "gpt") is None:  # its front end says what phonemes there are
        if work.minutes_left <= SPARE_MIN:
            raise RuntimeError("gpt: nothing written when the time was over")
        time.sleep(0.5)
    if base is not None and load_card(base, "diffusion"):
        shutil.copytree(Path(located(base)) / "diffusion", Path(work.release) / "diffusion", dirs_exist_ok=True)
        work.note("diffusion", {"copied": True})
        return
    _train(
        work,
        "diffusion",
        stage="diffusion",
        max_minutes=work.minutes_before("vocoder"),
        crop_frames=144,
        batch_size=config.diffusion_batch,
        codes=True,
        pieces=True,
        sampler={"method": "mean", "num_steps": 1},
        model={
            "fold": 4,
            "skip": True,
            "hidden": config.diffusion_hidden,
            "num_blocks": config.diffusion_blocks,
            "dilation_cycle": (1, 2),
            "prior_dropout": 0.0,
            "start_share": 0.5,
        },
        optimizer={"warmup_steps": 100, "ema_decay": 0.998, "decay_share": 0.6},
        **(
            _taught(config) | {"teacher_weight": DIFFUSION_TEACHER_WEIGHT, "teacher_every": 1} if config.teacher else {}
        ),
    )


def _taught(config: NarratorConfig) -> dict[str, Any]:
    return {
        "teacher": "whisper",
        "teacher_model": config.teacher_model,
        "teacher_weight": config.teacher_weight,
        "teacher_every": config.teacher_every,
    }


def _require_gpt(init_from: str, config: GPTConfig) -> GPT:
    """Return the GPT to go on with. Raises ValueError where it is not there or has another shape than ``config``."""
    base = load_stage(init_from, "gpt")
    if base is None:
        raise ValueError(f"init_from {init_from}: no gpt/config.json there")
    own, wanted = (each.model_dump(exclude={"dropout", "max_positions"}) for each in (base.model.config, config))
    other = [f"{name} {own[name]}" for name in own if own[name] != wanted[name]]
    if other:
        raise ValueError(f"init_from {init_from}: its GPT has {', '.join(other)}; set gpt_* and fsq_levels as there")
    return base.model


class _BestGPT:
    """Keeps those averaged weights in the release that lose least on sentences held out: with few hours a transformer
    ends worse than it was.
    """

    def __init__(self, work: Work, trainer: Trainer, task: ReadingTask, codes_hash: str) -> None:
        self._work, self._trainer, self._task, self._codes_hash = work, trainer, task, codes_hash
        self._loss = math.inf
        self.metrics: dict[str, float] = {}
        """Metrics of the run when these weights were written."""

    def look(self, history: list[dict[str, float]]) -> None:
        """Show the newest figures, and write the weights if they are the best that were evaluated."""
        _show("gpt", history)
        loss = history[-1].get("eval/loss", math.inf)
        if loss < self._loss:
            self._loss = loss
            self._write()

    def write_unjudged(self) -> None:
        """Write the weights as long as none were evaluated, so that a run that is cut short leaves some."""
        if self._loss == math.inf:
            self._write()

    def _write(self) -> None:
        work, state, task = self._work, self._trainer.state, self._task
        self.metrics = {key: value for entry in state.history for key, value in entry.items()}
        card = task.card({"dvae": self._codes_hash}) | {
            "run_name": "narrator",
            "sampling": {"temperature": work.config.temperature, "guidance": work.config.guidance},
            "steps": state.step,
            "training_s": state.elapsed_s,
            "metrics": self.metrics,
        }
        averaged = copy.deepcopy(self._trainer.ema).to("cpu")
        storage.write_bytes(storage.join(work.release, "gpt", "metrics.jsonl"), as_lines(state.history))
        for name, data in stage_files("gpt", averaged, card, task.tokenizer).items():
            storage.write_bytes(storage.join(work.release, "gpt", name), data)


def _compile(work: Work, model: GPT) -> None:
    """Compile the blocks, forward and backward; on a GPU, where that takes long, on a batch of the shapes to come."""
    model.to(work.device)
    model.masks_documents = True
    for block in model.blocks:
        block.compile()
    if not work.config.on_gpu:
        return
    rows, context = work.config.gpt_rows, work.config.context
    ids = torch.randint(2, model.config.vocabulary.size, (rows, context), device=work.device)
    places = torch.arange(context, device=work.device).expand(rows, -1)
    ones = torch.ones_like(ids)
    for room in (1, 3, 5):  # how many documents a batch has room for is not known yet: any number is to do
        starts = torch.full((room * rows + 1,), rows * context, dtype=torch.int32, device=work.device)
        starts[:rows] = torch.arange(0, rows * context, context, device=work.device)
        with torch.autocast("cuda", torch.bfloat16):
            loss = packed_loss(model, PackedBatch(ids, ids, ones.float(), places, ones, starts))
        loss.backward()
        model.zero_grad(set_to_none=True)
    log.info("gpt: compiled")


def _train(work: Work, name: str, **fields: Any) -> None:
    optimizer = fields.pop("optimizer")
    places: dict[str, Any] = {"corpus": str(work.pack), "release": work.release, "runs": str(Path(work.runs) / name)}
    common: dict[str, Any] = {"max_steps": FOREVER, "eval_every": FOREVER, "log_every": 200, "eval_clips": 8}
    common |= {"use_gpu": work.config.on_gpu, "cuda_graph": work.config.on_gpu and not work.plain, "launcher": "here"}
    common |= {"seed": work.config.seed, "checkpoint_every_s": 3600.0, "validation_share": VALIDATION_SHARE}
    summary = train(train_config(**(places | common | fields), optimizer=optimizer), progress=False)
    work.note(name, summary.metrics | {"steps": summary.steps, "wall_s": summary.wall_s})


def _show(name: str, history: list[dict[str, float]]) -> None:
    log.info("%s %s", name, json.dumps({key: round(value, 4) for key, value in history[-1].items()}))


STAGES: dict[str, Callable[[Work], None]] = {
    "speech": speech,
    "texts": texts,
    "dvae": dvae,
    "gpt": gpt,
    "diffusion": diffusion,
    "vocoder": vocoder,
}


NEEDS = {"texts": ("speech",), "dvae": ("speech",), "diffusion": ("codes",), "vocoder": ("codes",)}
"""What must be done before a stage begins."""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    name, work = sys.argv[1], Work(Path(sys.argv[2]), plain="plain" in sys.argv[3:])
    if work.config.on_gpu:
        torch.zeros(1, device=work.device)  # the driver sets itself up while others work
    work.wait_for(*NEEDS.get(name, ()))
    STAGES[name](work)


if __name__ == "__main__":
    main()
