"""The quantizers at equal training time: one network, one corpus, one clock.

    python tests/benchmarks/bench_quantizers.py --corpus demo-run/corpus --heldout demo-run/heldout --cpu-minutes 10

Trains the recipe ``tiny`` once with each quantizer in this process, and prints L1 of the held-out clips from codes and
without rounding, perplexity, live codes and, with ``--judge base``, the words that Whisper loses. Time is what the CPU
worked, so that other work on the machine is no one's loss: a few steps are timed, and the rest of the budget becomes
steps of a schedule that ends with it.
"""

import argparse
import tempfile
import time

import torch

from triforce.ingest.corpus.records import SAMPLE_RATE_HZ
from triforce.models.audio.mel import MelConfig, log_mel
from triforce.models.audio.vocoder import GriffinLim
from triforce.models.quantize import perplexity
from triforce.tokenize.read import decode_flac
from triforce.train.config import train_config
from triforce.train.data.order import Place
from triforce.train.evaluate.clips import select_clips
from triforce.train.evaluate.metrics import pooled, word_errors
from triforce.train.tasks.dvae import DVAETask
from triforce.train.trainer.loop import Trainer

TIMED_STEPS = 8
QUANTIZERS = ("fsq", "ema-vq", "sim-vq", "gumbel")


def train(quantizer: str, arguments: argparse.Namespace) -> Trainer:
    trial = fit(quantizer, arguments, TIMED_STEPS + 2)
    seconds_a_step = trial.task.cpu_s / TIMED_STEPS
    return fit(quantizer, arguments, max(1, round(60 * arguments.cpu_minutes / seconds_a_step)))


class TimedTask(DVAETask):
    """Adds up the CPU's time from the second step on: the first also seeds codebooks and warms up."""

    cpu_s, _last_s = 0.0, None

    def anneal(self, progress: float) -> None:
        if progress > 0:
            now_s = time.process_time()
            self.cpu_s += 0.0 if self._last_s is None else now_s - self._last_s
            self._last_s = now_s
        super().anneal(progress)


def fit(quantizer: str, arguments: argparse.Namespace, max_steps: int) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        config = train_config(
            stage="dvae",
            corpus=arguments.corpus,
            release=folder,
            runs=folder,
            model={"quantizer": quantizer},
            max_steps=max_steps,
            eval_every=1_000_000,
            seed=arguments.seed,
        )
        torch.manual_seed(config.seed)
        trainer = Trainer(TimedTask(config, Place(0, 1), torch.device("cpu")), config)
        trainer.fit(lambda trainer, metrics, save: None, lambda history: None)
        return trainer


@torch.inference_mode()
def measure(trainer: Trainer, clips: list, mels: list[torch.Tensor], judge) -> str:
    model = trainer.ema
    hard = soft = frames = 0.0
    counts, restored = torch.zeros(model.config.num_codes), []
    for mel in mels:
        codes = model.encode(mel[None])
        restored.append(model.decode(codes, torch.tensor([[mel.shape[1]]]))[0])
        hard += float((restored[-1] - mel).abs().mean(0).sum())
        soft += float((model.reconstruct_soft(mel[None])[0] - mel).abs().mean(0).sum())
        frames += mel.shape[1]
        counts += torch.bincount(codes.flatten(), minlength=len(counts))
    row = f"| {trainer.state.step} | {hard / frames:.3f} | {soft / frames:.3f} | {perplexity(counts):.0f} | "
    row += f"{float((counts > 0).float().mean()):.1%} |"
    if judge is not None:
        vocoder = GriffinLim(MelConfig())
        heard = judge([vocoder(mel).numpy() for mel in restored], SAMPLE_RATE_HZ, [clip.text for clip in clips])
        errors = [word_errors(clip.text, text) for clip, text in zip(clips, heard, strict=True)]
        row += f" {pooled(errors).rate:.1%} |"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--cpu-minutes", type=float, default=10.0, help="training of each, summed over threads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", help="Whisper model that listens, as in base; none: no word error rates")
    parser.add_argument("--only", nargs="*", default=QUANTIZERS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = select_clips(arguments.heldout)
    waveforms = [torch.from_numpy(decode_flac(clip.media, SAMPLE_RATE_HZ)) for clip in clips]
    mels = [log_mel(waveform, MelConfig()) for waveform in waveforms]
    judge = None
    if arguments.judge:
        from triforce.train.evaluate.judge import Judge, JudgeConfig

        judge = Judge(JudgeConfig(model=arguments.judge, num_threads=arguments.threads))
    print("| quantizer | steps | L1, nats | unrounded | perplexity | live codes |" + (" WER |" if judge else ""))
    print("|---|" + "---|" * (6 if judge else 5))
    for quantizer in arguments.only:
        print(f"| {quantizer} {measure(train(quantizer, arguments), clips, mels, judge)}", flush=True)


if __name__ == "__main__":
    main()
