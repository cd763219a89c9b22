"""The same network in CTranslate2, through its spec of Qwen3; it has neither paces nor pointers."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
from ctranslate2.specs import attention_spec, common_spec, transformer_spec

from triforce.models.blocks.fused import EPSILON
from triforce.models.gpt import GPT


def as_ctranslate2(gpt: GPT, folder: Path, compute_type: str, threads: int) -> ctranslate2.Generator:
    """Write the weights of ``gpt`` into ``folder`` and load them; ids are named by their numbers."""
    config = gpt.config
    if config.paces or config.pointer:
        raise ValueError("CTranslate2 counts positions through the document: give a GPT without paces and pointer")
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config.num_layers,
        config.num_heads,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=config.head_dim,
        rotary_interleave=False,
        rotary_scaling_type=None,
        rotary_base=config.rope_base,
        head_dim=config.head_dim,
        qk_norm=True,
    )
    _fill(spec.decoder, gpt)
    names = [str(number) for number in range(config.vocabulary.size)]
    spec.register_vocabulary(names)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = names[0]
    spec.config.layer_norm_epsilon = EPSILON
    spec.validate()
    spec.optimize(quantization=compute_type)
    spec.save(str(folder))
    return ctranslate2.Generator(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )


def _fill(decoder: transformer_spec.TransformerDecoderSpec, gpt: GPT) -> None:
    def array(weight):
        return weight.detach().float().contiguous().numpy()

    decoder.scale_embeddings = False
    decoder.embeddings.weight = array(gpt.embedding.weight)
    decoder.layer_norm.gamma = array(gpt.norm.weight)
    decoder.projection.weight = array(gpt.head.weight)
    for spec, block in zip(decoder.layer, gpt.blocks, strict=True):
        attention: attention_spec.MultiHeadAttentionSpec = spec.self_attention
        attention.layer_norm.gamma = array(block.attention_norm.weight)
        attention.q_norm.gamma = array(block.attention.q_norm.weight)
        attention.k_norm.gamma = array(block.attention.k_norm.weight)
        attention.linear[0].weight = array(block.attention.qkv.weight)
        attention.linear[1].weight = array(block.attention.out.weight)
        gate, up = block.mlp.gate_up.weight.chunk(2)
        spec.ffn.layer_norm.gamma = array(block.mlp_norm.weight)
        spec.ffn.linear_0.weight, spec.ffn.linear_0_noact.weight = array(gate), array(up)
        spec.ffn.linear_1.weight = array(block.mlp.down.weight)
