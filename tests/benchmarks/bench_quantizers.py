"""The quantizers at equal training time: one network, one corpus, one clock.

    python tests/benchmarks/bench_quantizers.py --corpus demo-run/corpus --heldout demo-run/heldout --minutes 5

Trains the recipe ``tiny`` once with each quantizer in this process, and prints L1 of the held-out clips from codes and
without rounding, perplexity, live codes and, with ``--judge base``, the words that Whisper loses.
"""

import argparse
import tempfile

import torch

from triforce.ingest.corpus import SAMPLE_RATE_HZ
from triforce.models.mel import MelConfig, log_mel
from triforce.models.vocoder import GriffinLim
from triforce.tokenize.read import decode_flac
from triforce.train.config import TrainConfig
from triforce.train.data import Place
from triforce.train.evaluate import EvaluateConfig, select_clips
from triforce.train.loop import Trainer
from triforce.train.metrics import word_errors
from triforce.train.tasks import DVAETask, perplexity

QUANTIZERS = ("fsq", "ema-vq", "sim-vq", "gumbel")


def train(quantizer: str, arguments: argparse.Namespace) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            stage="dvae",
            corpus=arguments.corpus,
            release=folder,
            runs=folder,
            model={"quantizer": quantizer},
            max_minutes=arguments.minutes,
            max_steps=100_000,
            eval_every=100_000,
            seed=arguments.seed,
        )
        torch.manual_seed(config.seed)
        trainer = Trainer(DVAETask(config, Place(0, 1), torch.device("cpu")), config)
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
    row = f"| {trainer.progress.step} | {hard / frames:.3f} | {soft / frames:.3f} | {perplexity(counts):.0f} | "
    row += f"{float((counts > 0).float().mean()):.1%} |"
    if judge is not None:
        vocoder = GriffinLim(MelConfig())
        heard = judge([vocoder(mel).numpy() for mel in restored], SAMPLE_RATE_HZ, [clip.text for clip in clips])
        errors = [word_errors(clip.text, text) for clip, text in zip(clips, heard, strict=True)]
        row += f" {sum(e.errors for e in errors) / sum(e.total for e in errors):.1%} |"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", help="Whisper model that listens, as in base; none: no word error rates")
    parser.add_argument("--only", nargs="*", default=QUANTIZERS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = select_clips(arguments.heldout, EvaluateConfig(), None)
    waveforms = [torch.from_numpy(decode_flac(clip.flac, SAMPLE_RATE_HZ)) for clip in clips]
    mels = [log_mel(waveform, MelConfig()) for waveform in waveforms]
    judge = None
    if arguments.judge:
        from triforce.train.judge import Judge, JudgeConfig

        judge = Judge(JudgeConfig(model=arguments.judge, num_threads=arguments.threads))
    print("| quantizer | steps | L1, nats | unrounded | perplexity | live codes |" + (" WER |" if judge else ""))
    print("|---|" + "---|" * (6 if judge else 5))
    for quantizer in arguments.only:
        print(f"| {quantizer} {measure(train(quantizer, arguments), clips, mels, judge)}", flush=True)


if __name__ == "__main__":
    main()
