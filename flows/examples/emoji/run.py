"""``triforce emoji``: pictures drawn by name with one GPT and an upsampling diffusion network, judged, within an hour.

The same commands and classes as for speech: a corpus, a dVAE, token shards, a GPT, a diffusion network, and a judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triforce.flows.examples.emoji.config import (
    EmojiConfig,
    diffusion_recipe,
    dvae_recipe,
    gpt_recipe,
    shared_settings,
)
from triforce.flows.examples.timed_steps import Timings, release_hashes
from triforce.flows.jobs.run_stage import run_tokenize, run_train
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.config import TokenizeConfig
from triforce.train.config import train_config

STEPS = ("pictures", "train-dvae", "tokenize", "train-gpt", "train-diffusion", "draw", "judge")


def run_emoji(folder: Path, config: EmojiConfig, say: Callable[[str], None] = print) -> None:
    """Run all steps, into ``folder``; ``say`` gets a line for each.

    Each step skips what an earlier run finished, and goes on where one was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run, corpus = Timings(folder, STEPS, say), Corpus(str(folder / "corpus"))
    run.stored(
        "pictures", folder / "corpus", lambda: sorted(corpus.clipped_ids("emoji")), lambda: _write(corpus, folder)
    )
    _train("train-dvae", run, folder, shared_settings(config) | dvae_recipe(config), corpus=corpus.uri)
    with run.step("tokenize") as step:
        total = run_tokenize(tokenize_config(folder))
        step.line = f"{total.num_clips} clips, {total.num_codes} codes"
        step.done_before = not total.num_new_shards
    _train("train-gpt", run, folder, shared_settings(config) | gpt_recipe(config), tokens=str(folder / "tokens"))
    _train("train-diffusion", run, folder, shared_settings(config) | diffusion_recipe(config), corpus=corpus.uri)
    release = folder / "release"
    run.stored(
        "draw",
        folder / "answers" / "captions.jsonl",
        lambda: [config.model_dump(mode="json"), release_hashes(release)],
        lambda: _answer(folder, config),
    )
    run.stored(
        "judge",
        folder / "answers" / "judged.json",
        lambda: [config.model_dump(mode="json"), release_hashes(release)],
        lambda: _judge(folder),
    )
    say(str(folder / "answers" / "page.html"))


def tokenize_config(folder: Path) -> TokenizeConfig:
    """Return the config that tokenizes the pictures."""
    return TokenizeConfig(
        corpus=str(folder / "corpus"),
        release=str(folder / "release"),
        tokens=str(folder / "tokens"),
        text_vocabulary_size=1024,
        batch_positions=131_072,
    )


def _write(corpus: Corpus, folder: Path) -> str:
    from triforce.flows.examples.emoji.data import write_pictures

    return f"{write_pictures(corpus, folder / 'cache')} clips"


def _train(name: str, run: Timings, folder: Path, recipe: dict[str, Any], **data: Any) -> None:
    """Train one network as the step ``name``."""
    places = {"runs": str(folder / "runs"), "release": str(folder / "release")}
    with run.step(name) as step:
        summary = run_train(train_config(**recipe | data | places))
        shown = [f"{name} {value:.3g}" for name, value in sorted(summary.metrics.items()) if "eval/" in name]
        step.line, step.done_before = f"{summary.steps} steps; {', '.join(shown)}", summary.skipped


def _answer(folder: Path, config: EmojiConfig) -> str:
    from triforce.flows.examples.emoji.answers import write_answers

    return write_answers(folder / "release", folder / "corpus", folder / "answers", config)


def _judge(folder: Path) -> str:
    from triforce.flows.examples.emoji.judge import judge_folder, summary

    return summary(judge_folder(folder / "answers", str(folder / "corpus"), folder / "cache"))


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line: ``python -m triforce.flows.examples.emoji.run FOLDER --minutes 55``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=EmojiConfig().minutes)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args(arguments)
    run_emoji(given.folder, EmojiConfig(minutes=given.minutes, threads=given.threads))


if __name__ == "__main__":
    main()
