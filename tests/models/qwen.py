"""The same network in Hugging Face's transformers: Qwen3 has our blocks, QK-norm included."""

from __future__ import annotations

import torch

from triforce.models.gpt import GPT


def as_qwen3(gpt: GPT) -> torch.nn.Module:
    """A `Qwen3ForCausalLM` with the weights of ``gpt``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = gpt.config
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary.size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            rms_norm_eps=1e-6,
            tie_word_embeddings=config.tie_embeddings,
            attention_bias=False,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=None,
        )
    )
    weights = {"model.embed_tokens.weight": gpt.embedding.weight, "model.norm.weight": gpt.norm.weight}
    if not config.tie_embeddings:
        weights["lm_head.weight"] = gpt.head.weight
    for i, block in enumerate(gpt.blocks):
        layer = f"model.layers.{i}."
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.mlp.gate_up.weight.chunk(2)
        weights |= {
            layer + "input_layernorm.weight": block.attention_norm.weight,
            layer + "self_attn.q_proj.weight": q,
            layer + "self_attn.k_proj.weight": k,
            layer + "self_attn.v_proj.weight": v,
            layer + "self_attn.q_norm.weight": block.attention.q_norm.weight,
            layer + "self_attn.k_norm.weight": block.attention.k_norm.weight,
            layer + "self_attn.o_proj.weight": block.attention.out.weight,
            layer + "post_attention_layernorm.weight": block.mlp_norm.weight,
            layer + "mlp.gate_proj.weight": gate,
            layer + "mlp.up_proj.weight": up,
            layer + "mlp.down_proj.weight": block.mlp.down.weight,
        }
    missing, unexpected = model.load_state_dict({k: v.detach().clone() for k, v in weights.items()}, strict=False)
    if unexpected or set(missing) > {"lm_head.weight"}:
        raise ValueError(f"weights that do not fit: {missing}, {unexpected}")
    return model.to(gpt.embedding.weight.dtype)
