"""Settings that the training loop reads, whatever it trains."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from triforce.train.data.config import SeedConfig


class OptimizerConfig(BaseModel):
    """AdamW with a warm-up, a plateau and a linear decay to zero, and a moving average of the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate.")
    warmup_steps: int = Field(50, ge=0, description="Steps over which the rate rises linearly to its peak.")
    decay_share: float = Field(
        0.7, ge=0, le=1, description="Share of the run, at its end, over which the rate falls to zero."
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, description="Weight decay of matrices and filters; vectors have none."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient's mean.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the gradient's square.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    ema_decay: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="Decay of the moving average of weights and buffers; it warms up with the steps.",
    )


class LoopConfig(SeedConfig):
    """What `Trainer` reads."""

    optimizer: OptimizerConfig = OptimizerConfig()
    train_only: tuple[str, ...] = Field(
        (),
        description="Parameters that are trained, by patterns of their names as in blocks.1.* or *norm*; none: all.",
    )
    max_steps: int = Field(600, ge=1, description="Optimizer steps.")
    max_minutes: float | None = Field(
        None, gt=0, description="Training time after which the schedule ends early; none: steps alone count."
    )
    accumulation: int = Field(1, ge=1, description="Parts a worker's batch is worked through in.")
    eval_every: int = Field(100, ge=1, description="Steps between evaluations.")
    checkpoint_every_s: float = Field(60.0, gt=0, description="Seconds between checkpoints.")
    log_every: int = Field(10, ge=1, description="Steps between points of the training curve.")
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp", description="What workers share: ddp gradients; fsdp weights and the optimizer's state too (gpt)."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of matrix products and convolutions in training; auto: bfloat16 on GPUs and on CPUs "
        "that multiply it (AMX, AVX512-BF16), float32 elsewhere. Weights and averages are float32.",
    )
    cuda_graph: bool = Field(
        False,
        description="On one GPU, replay each step as one CUDA graph: for small networks, whose kernels take longer to "
        "launch than to run. What a step draws at random then depends on the steps before it.",
    )
    compile: bool = Field(False, description="Compile the network with torch.compile; pays on GPU.")
