"""transformers: architectures built from tiny configs, without downloading weights or tokenizers.

A row has the entry's name, the config class, its settings, the model class and the kind of input.
Models with a head are preferred, so that the loss applies to the output that users train on. Three
are left out, since plain backprop fails on them here: CANINE and Autoformer create float32 tensors
in forward, and Reformer has no backward pass in eval mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.measure import Entry, Example, Remedy

VOCABULARY = 99
BATCH = 2
LENGTH = 7
INITIAL = 0.1

TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

DEEP = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}

ENCODER = {**TOKENS, **DEEP, "intermediate_size": 64, "max_position_embeddings": 64}

DECODER = {**ENCODER, "num_key_value_heads": 2, "use_cache": False}

EAGER = {"experts_implementation": "eager"}
"""One product per expert, since grouped products do not support float64."""

EXPERTS = {**EAGER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

LOCAL = {**EAGER, "num_local_experts": 4, "num_experts_per_tok": 2}

GPT = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}

BART = {
    **TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "max_position_embeddings": 64, "use_cache": False,
    "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip

T5 = {
    **TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "use_cache": False, "decoder_start_token_id": 0,
}  # fmt: skip

MLA = {
    **EAGER,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "moe_intermediate_size": 32, "num_key_value_heads": 4,
}  # fmt: skip

PIXELS = {**DEEP, "intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_labels": 5}

SPEECH = {
    **DEEP, "intermediate_size": 64, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "conv_dim": (32, 32, 32), "conv_stride": (4, 4, 4),
    "conv_kernel": (8, 8, 8), "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False, "mask_time_prob": 0.0, "num_adapter_layers": 1,
}  # fmt: skip

LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8, "linear_conv_kernel_dim": 2}  # fmt: skip

CLIP_TEXT = {**ENCODER, "projection_dim": 32}
CLIP_VISION = {**DEEP, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
CLIP = {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 32}

SERIES = {
    "prediction_length": 4, "context_length": 8, "d_model": 32, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "lags_sequence": [1, 2], "num_time_features": 1,
}  # fmt: skip

DETR = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 5,
    "num_labels": 5, "use_timm_backbone": False, "use_pretrained_backbone": False,
    "backbone": None,
}  # fmt: skip


def ids(length: int = LENGTH) -> Tensor:
    """Return random token ids, none of them special."""
    return torch.randint(3, VOCABULARY, (BATCH, length))


def text() -> Example:
    """Return token ids."""
    return {"input_ids": ids()}


def long(length: int) -> Callable[[], Example]:
    """Return a function that draws token ids of a given length."""
    return lambda: {"input_ids": ids(length)}


def pair(length: int = LENGTH) -> Example:
    """Return token ids for an encoder and for a decoder."""
    return {"input_ids": ids(length), "decoder_input_ids": ids(length - 2)}


def first(length: int = 8) -> Tensor:
    """Return a mask of the first token, for global attention."""
    return (torch.arange(length) == 0).long().expand(BATCH, length)


def image(size: int = 32, channels: int = 3) -> Callable[[], Example]:
    """Return a function that draws images."""
    return lambda: {"pixel_values": torch.randn(BATCH, channels, size, size)}


def video(frames: int = 2, size: int = 32) -> Callable[[], Example]:
    """Return a function that draws video clips."""
    return lambda: {"pixel_values": torch.randn(BATCH, frames, 3, size, size)}


def both(size: int = 32) -> Example:
    """Return token ids and images."""
    return {"input_ids": ids(), "pixel_values": torch.randn(BATCH, 3, size, size)}


def wave(length: int = 1600) -> Callable[[], Example]:
    """Return a function that draws raw audio."""
    return lambda: {"input_values": torch.randn(BATCH, length)}


def mel(frames: int, bins: int, name: str = "input_features") -> Callable[[], Example]:
    """Return a function that draws audio features, frames first."""
    return lambda: {name: torch.randn(BATCH, frames, bins)}


def speech(bins: int, frames: int) -> Example:
    """Return audio features, bins first, and token ids for a decoder."""
    return {
        "input_features": torch.randn(BATCH, bins, frames),
        "decoder_input_ids": ids(5),
    }


def series() -> Example:
    """Return past and future values of time series."""
    return {
        "past_values": torch.randn(BATCH, 10),
        "past_time_features": torch.randn(BATCH, 10, 1),
        "past_observed_mask": torch.ones(BATCH, 10),
        "future_values": torch.randn(BATCH, 4),
        "future_time_features": torch.randn(BATCH, 4, 1),
    }


def layout() -> Example:
    """Return token ids and their boxes on a page."""
    box = torch.randint(0, 40, (BATCH, LENGTH, 4)).cumsum(-1).clamp(max=99)
    return {"input_ids": ids(), "bbox": box}


def regions(tokens: int = 4, width: int = 32) -> Example:
    """Return token ids and features of image regions."""
    return {"input_ids": ids(), "visual_embeds": torch.randn(BATCH, tokens, width)}


def fixed(**tensors: Callable[[], Tensor]) -> Callable[[], Example]:
    """Return a function that draws each named tensor."""
    return lambda: {name: draw() for name, draw in tensors.items()}


Row = tuple[str, str, dict[str, Any], str, Callable[[], Example]]

DECODERS: tuple[Row, ...] = (
    ("gpt2", "GPT2Config", GPT, "GPT2LMHeadModel", text),
    ("openai-gpt", "OpenAIGPTConfig", GPT, "OpenAIGPTLMHeadModel", text),
    ("gpt-bigcode", "GPTBigCodeConfig", GPT, "GPTBigCodeForCausalLM", text),
    ("gptj", "GPTJConfig", {**GPT, "rotary_dim": 4}, "GPTJForCausalLM", text),
    ("codegen", "CodeGenConfig", {**GPT, "rotary_dim": 4}, "CodeGenForCausalLM", text),
    (
        "gpt-neo",
        "GPTNeoConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "use_cache": False,
            "attention_types": [[["global", "local"], 1]],
        },
        "GPTNeoForCausalLM",
        text,
    ),
    ("gpt-neox", "GPTNeoXConfig", {**ENCODER, "use_cache": False}, "GPTNeoXForCausalLM", text),
    (
        "gpt-neox-japanese",
        "GPTNeoXJapaneseConfig",
        {**ENCODER, "use_cache": False},
        "GPTNeoXJapaneseForCausalLM",
        text,
    ),
    (
        "opt",
        "OPTConfig",
        {
            **TOKENS,
            **DEEP,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
            "use_cache": False,
        },
        "OPTForCausalLM",
        text,
    ),
    (
        "bloom",
        "BloomConfig",
        {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
        "BloomForCausalLM",
        text,
    ),
    (
        "mpt",
        "MptConfig",
        {
            **TOKENS,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 64,
            "use_cache": False,
        },
        "MptForCausalLM",
        text,
    ),
    ("falcon", "FalconConfig", {**TOKENS, **DEEP, "use_cache": False}, "FalconForCausalLM", text),
    ("ctrl", "CTRLConfig", {**GPT, "dff": 64}, "CTRLLMHeadModel", text),
    (
        "xglm",
        "XGLMConfig",
        {
            **TOKENS,
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        "XGLMForCausalLM",
        text,
    ),
    ("biogpt", "BioGptConfig", {**ENCODER, "use_cache": False}, "BioGptForCausalLM", text),
    ("llama", "LlamaConfig", DECODER, "LlamaForCausalLM", text),
    ("mistral", "MistralConfig", DECODER, "MistralForCausalLM", text),
    ("ministral", "MinistralConfig", {**DECODER, "head_dim": 8}, "MinistralForCausalLM", text),
    ("qwen2", "Qwen2Config", DECODER, "Qwen2ForCausalLM", text),
    ("qwen3", "Qwen3Config", {**DECODER, "head_dim": 8}, "Qwen3ForCausalLM", text),
    ("gemma", "GemmaConfig", {**DECODER, "head_dim": 8}, "GemmaForCausalLM", text),
    ("gemma2", "Gemma2Config", {**DECODER, "head_dim": 8}, "Gemma2ForCausalLM", text),
    ("gemma3", "Gemma3TextConfig", {**DECODER, "head_dim": 8}, "Gemma3ForCausalLM", text),
    ("phi", "PhiConfig", {**DECODER, "num_key_value_heads": 4}, "PhiForCausalLM", text),
    (
        "phi3",
        "Phi3Config",
        {**DECODER, "original_max_position_embeddings": 64},
        "Phi3ForCausalLM",
        text,
    ),
    ("stablelm", "StableLmConfig", DECODER, "StableLmForCausalLM", text),
    ("starcoder2", "Starcoder2Config", DECODER, "Starcoder2ForCausalLM", text),
    ("persimmon", "PersimmonConfig", DECODER, "PersimmonForCausalLM", text),
    ("cohere", "CohereConfig", DECODER, "CohereForCausalLM", text),
    ("cohere2", "Cohere2Config", DECODER, "Cohere2ForCausalLM", text),
    ("olmo", "OlmoConfig", DECODER, "OlmoForCausalLM", text),
    ("olmo2", "Olmo2Config", DECODER, "Olmo2ForCausalLM", text),
    ("olmo3", "Olmo3Config", DECODER, "Olmo3ForCausalLM", text),
    ("granite", "GraniteConfig", DECODER, "GraniteForCausalLM", text),
    ("helium", "HeliumConfig", {**DECODER, "head_dim": 8}, "HeliumForCausalLM", text),
    ("nemotron", "NemotronConfig", DECODER, "NemotronForCausalLM", text),
    ("glm", "GlmConfig", {**DECODER, "head_dim": 8}, "GlmForCausalLM", text),
    ("glm4", "Glm4Config", {**DECODER, "head_dim": 8}, "Glm4ForCausalLM", text),
    ("smollm3", "SmolLM3Config", DECODER, "SmolLM3ForCausalLM", text),
    ("diffllama", "DiffLlamaConfig", DECODER, "DiffLlamaForCausalLM", text),
    ("exaone4", "Exaone4Config", DECODER, "Exaone4ForCausalLM", text),
    ("ernie4.5", "Ernie4_5Config", {**DECODER, "head_dim": 8}, "Ernie4_5ForCausalLM", text),
    ("arcee", "ArceeConfig", {**DECODER, "head_dim": 8}, "ArceeForCausalLM", text),
    ("seed-oss", "SeedOssConfig", {**DECODER, "head_dim": 8}, "SeedOssForCausalLM", text),
    ("apertus", "ApertusConfig", DECODER, "ApertusForCausalLM", text),
    ("bitnet", "BitNetConfig", DECODER, "BitNetForCausalLM", text),
    (
        "modernbert-decoder",
        "ModernBertDecoderConfig",
        {**DECODER, "cls_token_id": 1, "sep_token_id": 2},
        "ModernBertDecoderForCausalLM",
        text,
    ),
)

MIXTURES: tuple[Row, ...] = (
    ("mixtral", "MixtralConfig", {**DECODER, **LOCAL}, "MixtralForCausalLM", text),
    (
        "qwen2-moe",
        "Qwen2MoeConfig",
        {**DECODER, **EXPERTS, "shared_expert_intermediate_size": 32},
        "Qwen2MoeForCausalLM",
        text,
    ),
    (
        "qwen3-moe",
        "Qwen3MoeConfig",
        {**DECODER, **EXPERTS, "head_dim": 8},
        "Qwen3MoeForCausalLM",
        text,
    ),
    ("olmoe", "OlmoeConfig", {**DECODER, **EXPERTS}, "OlmoeForCausalLM", text),
    ("phimoe", "PhimoeConfig", {**DECODER, **LOCAL}, "PhimoeForCausalLM", text),
    ("granitemoe", "GraniteMoeConfig", {**DECODER, **LOCAL}, "GraniteMoeForCausalLM", text),
    (
        "deepseek-v2",
        "DeepseekV2Config",
        {**DECODER, **MLA, "topk_method": "greedy"},
        "DeepseekV2ForCausalLM",
        text,
    ),
    (
        "deepseek-v3",
        "DeepseekV3Config",
        {**DECODER, **MLA, "n_group": 2, "topk_group": 1},
        "DeepseekV3ForCausalLM",
        text,
    ),
    (
        "dbrx",
        "DbrxConfig",
        {
            **TOKENS,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 64,
            "use_cache": False,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            **EAGER,
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        },
        "DbrxForCausalLM",
        text,
    ),
    (
        "jetmoe",
        "JetMoeConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        "JetMoeForCausalLM",
        text,
    ),
    ("gpt-oss", "GptOssConfig", {**DECODER, **LOCAL, "head_dim": 8}, "GptOssForCausalLM", text),
    (
        "minimax",
        "MiniMaxConfig",
        {**DECODER, **LOCAL, "head_dim": 8, "block_size": 4},
        "MiniMaxForCausalLM",
        text,
    ),
    (
        "dots1",
        "Dots1Config",
        {**DECODER, **MLA, "n_group": 1, "topk_group": 1},
        "Dots1ForCausalLM",
        text,
    ),
    (
        "hunyuan-moe",
        "HunYuanMoEV1Config",
        {**DECODER, **EAGER, "num_experts": 4, "moe_topk": 2, "head_dim": 8},
        "HunYuanMoEV1ForCausalLM",
        text,
    ),
    (
        "switch-transformers",
        "SwitchTransformersConfig",
        {
            **T5,
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "expert_capacity": 64,
        },
        "SwitchTransformersForConditionalGeneration",
        partial(pair, 24),
    ),
    (
        "nllb-moe",
        "NllbMoeConfig",
        {
            **BART,
            "num_experts": 4,
            "expert_capacity": 64,
            "encoder_sparse_step": 2,
            "decoder_sparse_step": 2,
        },
        "NllbMoeForConditionalGeneration",
        partial(pair, 24),
    ),
)

STATES: tuple[Row, ...] = (
    (
        "mamba",
        "MambaConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "time_step_rank": 4,
            "use_cache": False,
        },
        "MambaForCausalLM",
        text,
    ),
    (
        "mamba2",
        "Mamba2Config",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
            "use_cache": False,
        },
        "Mamba2ForCausalLM",
        text,
    ),
    (
        "falcon-mamba",
        "FalconMambaConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "time_step_rank": 4,
            "use_cache": False,
        },
        "FalconMambaForCausalLM",
        text,
    ),
    (
        "rwkv",
        "RwkvConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "attention_hidden_size": 32,
            "intermediate_size": 64,
            "context_length": 64,
            "use_cache": False,
        },
        "RwkvForCausalLM",
        text,
    ),
    (
        "recurrent-gemma",
        "RecurrentGemmaConfig",
        {
            **DECODER,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "head_dim": 8,
            "attention_window_size": 16,
            "num_key_value_heads": 1,
        },
        "RecurrentGemmaForCausalLM",
        text,
    ),
    (
        "jamba",
        "JambaConfig",
        {
            **DECODER,
            **EAGER,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        "JambaForCausalLM",
        text,
    ),
    (
        "bamba",
        "BambaConfig",
        {
            **DECODER,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
            "attn_layer_indices": [1],
        },
        "BambaForCausalLM",
        text,
    ),
    (
        "zamba",
        "ZambaConfig",
        {
            **DECODER,
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "use_mamba_kernels": False,
        },
        "ZambaForCausalLM",
        text,
    ),
    (
        "zamba2",
        "Zamba2Config",
        {
            **DECODER,
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "chunk_size": 4,
            "hybrid_layer_ids": [1, 3],
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "use_mamba_kernels": False,
        },
        "Zamba2ForCausalLM",
        text,
    ),
    (
        "falcon-h1",
        "FalconH1Config",
        {
            **DECODER,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
        },
        "FalconH1ForCausalLM",
        text,
    ),
    (
        "granitemoehybrid",
        "GraniteMoeHybridConfig",
        {
            **DECODER,
            **LOCAL,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 4,
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": 32,
        },
        "GraniteMoeHybridForCausalLM",
        text,
    ),
    (
        "qwen3-next",
        "Qwen3NextConfig",
        {
            **DECODER,
            **EXPERTS,
            **LINEAR,
            "head_dim": 8,
            "shared_expert_intermediate_size": 32,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "Qwen3NextForCausalLM",
        text,
    ),
    (
        "lfm2",
        "Lfm2Config",
        {**DECODER, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        "Lfm2ForCausalLM",
        text,
    ),
    (
        "xlstm",
        "xLSTMConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 4,
            "num_blocks": 2,
            "chunk_size": 4,
            "use_cache": False,
        },
        "xLSTMForCausalLM",
        long(8),
    ),
)

ENCODERS: tuple[Row, ...] = (
    ("bert", "BertConfig", ENCODER, "BertForMaskedLM", text),
    (
        "bert-generation",
        "BertGenerationConfig",
        {**ENCODER, "use_cache": False},
        "BertGenerationEncoder",
        text,
    ),
    ("roberta", "RobertaConfig", ENCODER, "RobertaForMaskedLM", text),
    (
        "roberta-prelayernorm",
        "RobertaPreLayerNormConfig",
        ENCODER,
        "RobertaPreLayerNormForMaskedLM",
        text,
    ),
    ("xlm-roberta", "XLMRobertaConfig", ENCODER, "XLMRobertaForMaskedLM", text),
    ("xlm-roberta-xl", "XLMRobertaXLConfig", ENCODER, "XLMRobertaXLForMaskedLM", text),
    ("camembert", "CamembertConfig", ENCODER, "CamembertForMaskedLM", text),
    ("data2vec-text", "Data2VecTextConfig", ENCODER, "Data2VecTextForMaskedLM", text),
    ("albert", "AlbertConfig", {**ENCODER, "embedding_size": 16}, "AlbertForMaskedLM", text),
    (
        "distilbert",
        "DistilBertConfig",
        {
            **TOKENS,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
        },
        "DistilBertForMaskedLM",
        text,
    ),
    ("electra", "ElectraConfig", {**ENCODER, "embedding_size": 16}, "ElectraForMaskedLM", text),
    (
        "deberta",
        "DebertaConfig",
        {
            **ENCODER,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False,
        },
        "DebertaForMaskedLM",
        text,
    ),
    (
        "deberta-v2",
        "DebertaV2Config",
        {
            **ENCODER,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "share_att_key": True,
            "conv_kernel_size": 3,
        },
        "DebertaV2ForMaskedLM",
        text,
    ),
    ("mpnet", "MPNetConfig", ENCODER, "MPNetForMaskedLM", text),
    (
        "mobilebert",
        "MobileBertConfig",
        {
            **ENCODER,
            "embedding_size": 16,
            "intra_bottleneck_size": 16,
            "num_feedforward_networks": 2,
        },
        "MobileBertForMaskedLM",
        text,
    ),
    (
        "squeezebert",
        "SqueezeBertConfig",
        {**ENCODER, "embedding_size": 32},
        "SqueezeBertForMaskedLM",
        text,
    ),
    ("megatron-bert", "MegatronBertConfig", ENCODER, "MegatronBertForMaskedLM", text),
    (
        "modernbert",
        "ModernBertConfig",
        {**ENCODER, "cls_token_id": 1, "sep_token_id": 2},
        "ModernBertForMaskedLM",
        text,
    ),
    ("ernie", "ErnieConfig", ENCODER, "ErnieForMaskedLM", text),
    (
        "rembert",
        "RemBertConfig",
        {**ENCODER, "input_embedding_size": 16, "output_embedding_size": 16},
        "RemBertForMaskedLM",
        text,
    ),
    ("roformer", "RoFormerConfig", {**ENCODER, "embedding_size": 16}, "RoFormerForMaskedLM", text),
    (
        "convbert",
        "ConvBertConfig",
        {**ENCODER, "embedding_size": 16, "conv_kernel_size": 3},
        "ConvBertForMaskedLM",
        text,
    ),
    ("fnet", "FNetConfig", ENCODER, "FNetForMaskedLM", text),
    (
        "funnel",
        "FunnelConfig",
        {
            **TOKENS,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
            "num_decoder_layers": 1,
        },
        "FunnelForMaskedLM",
        long(8),
    ),
    (
        "longformer",
        "LongformerConfig",
        {**ENCODER, "attention_window": 4},
        "LongformerForMaskedLM",
        fixed(input_ids=lambda: ids(8), global_attention_mask=first),
    ),
    (
        "big-bird",
        "BigBirdConfig",
        {
            **ENCODER,
            "attention_type": "block_sparse",
            "block_size": 2,
            "num_random_blocks": 1,
            "max_position_embeddings": 64,
        },
        "BigBirdForMaskedLM",
        long(32),
    ),
    (
        "nystromformer",
        "NystromformerConfig",
        {**ENCODER, "num_landmarks": 4, "segment_means_seq_len": 8},
        "NystromformerForMaskedLM",
        long(8),
    ),
    ("ibert", "IBertConfig", ENCODER, "IBertForMaskedLM", text),
    (
        "esm",
        "EsmConfig",
        {**ENCODER, "mask_token_id": 3, "position_embedding_type": "rotary"},
        "EsmForMaskedLM",
        text,
    ),
    (
        "xmod",
        "XmodConfig",
        {**ENCODER, "default_language": "en_XX", "languages": ["en_XX"]},
        "XmodForMaskedLM",
        text,
    ),
    (
        "luke",
        "LukeConfig",
        {**ENCODER, "entity_vocab_size": 20, "entity_emb_size": 16},
        "LukeForMaskedLM",
        fixed(
            input_ids=ids,
            entity_ids=lambda: torch.randint(3, 20, (BATCH, 2)),
            entity_position_ids=lambda: torch.tensor([[[0, 1], [3, -1]]] * BATCH),
        ),
    ),
    ("splinter", "SplinterConfig", ENCODER, "SplinterForQuestionAnswering", text),
    (
        "roc-bert",
        "RoCBertConfig",
        {
            **ENCODER,
            "pronunciation_vocab_size": 20,
            "pronunciation_embed_dim": 8,
            "shape_vocab_size": 20,
            "shape_embed_dim": 8,
        },
        "RoCBertForMaskedLM",
        text,
    ),
    (
        "xlm",
        "XLMConfig",
        {
            **TOKENS,
            "emb_dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "n_langs": 2,
            "max_position_embeddings": 64,
            "use_lang_emb": False,
        },
        "XLMWithLMHeadModel",
        text,
    ),
    (
        "flaubert",
        "FlaubertConfig",
        {**TOKENS, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
        "FlaubertWithLMHeadModel",
        text,
    ),
    (
        "xlnet",
        "XLNetConfig",
        {**TOKENS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "use_mems_eval": False},
        "XLNetLMHeadModel",
        text,
    ),
    (
        "layoutlm",
        "LayoutLMConfig",
        {**ENCODER, "max_2d_position_embeddings": 128},
        "LayoutLMForMaskedLM",
        layout,
    ),
    (
        "lilt",
        "LiltConfig",
        {
            **ENCODER,
            "hidden_size": 48,
            "max_2d_position_embeddings": 128,
            "channel_shrink_ratio": 4,
        },
        "LiltForTokenClassification",
        layout,
    ),
    (
        "bros",
        "BrosConfig",
        {**ENCODER, "hidden_size": 64, "dim_bbox": 8},
        "BrosForTokenClassification",
        fixed(input_ids=ids, bbox=lambda: torch.rand(BATCH, LENGTH, 8)),
    ),
    (
        "tapas",
        "TapasConfig",
        {**ENCODER, "type_vocab_sizes": [3, 8, 8, 2, 8, 8, 4], "num_aggregation_labels": 2},
        "TapasForQuestionAnswering",
        fixed(input_ids=ids, token_type_ids=lambda: torch.ones(BATCH, LENGTH, 7, dtype=torch.long)),
    ),
    (
        "perceiver",
        "PerceiverConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_latents": 32,
            "num_latents": 5,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "qk_channels": 32,
            "v_channels": 32,
            "max_position_embeddings": LENGTH,
        },
        "PerceiverForMaskedLM",
        fixed(inputs=ids),
    ),
)

PAIRS: tuple[Row, ...] = (
    ("t5", "T5Config", T5, "T5ForConditionalGeneration", pair),
    ("mt5", "MT5Config", T5, "MT5ForConditionalGeneration", pair),
    ("umt5", "UMT5Config", T5, "UMT5ForConditionalGeneration", pair),
    (
        "longt5",
        "LongT5Config",
        {**T5, "local_radius": 3, "global_block_size": 4},
        "LongT5ForConditionalGeneration",
        pair,
    ),
    ("bart", "BartConfig", BART, "BartForConditionalGeneration", pair),
    ("mbart", "MBartConfig", BART, "MBartForConditionalGeneration", pair),
    ("pegasus", "PegasusConfig", BART, "PegasusForConditionalGeneration", pair),
    (
        "pegasus-x",
        "PegasusXConfig",
        {**BART, "block_size": 4, "num_global_tokens": 2},
        "PegasusXForConditionalGeneration",
        pair,
    ),
    ("marian", "MarianConfig", BART, "MarianMTModel", pair),
    ("blenderbot", "BlenderbotConfig", BART, "BlenderbotForConditionalGeneration", pair),
    (
        "blenderbot-small",
        "BlenderbotSmallConfig",
        BART,
        "BlenderbotSmallForConditionalGeneration",
        pair,
    ),
    ("plbart", "PLBartConfig", BART, "PLBartForConditionalGeneration", pair),
    ("mvp", "MvpConfig", BART, "MvpForConditionalGeneration", pair),
    ("m2m-100", "M2M100Config", BART, "M2M100ForConditionalGeneration", pair),
    (
        "led",
        "LEDConfig",
        {
            **BART,
            "attention_window": 4,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
        },
        "LEDForConditionalGeneration",
        fixed(
            input_ids=lambda: ids(8), decoder_input_ids=lambda: ids(5), global_attention_mask=first
        ),
    ),
    (
        "bigbird-pegasus",
        "BigBirdPegasusConfig",
        {**BART, "attention_type": "original_full"},
        "BigBirdPegasusForConditionalGeneration",
        pair,
    ),
    (
        "prophetnet",
        "ProphetNetConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "num_buckets": 8,
            "relative_max_distance": 16,
            "use_cache": False,
            "decoder_start_token_id": 1,
        },
        "ProphetNetForConditionalGeneration",
        pair,
    ),
    (
        "trocr",
        "TrOCRConfig",
        {
            **TOKENS,
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "cross_attention_hidden_size": 32,
            "use_cache": False,
        },
        "TrOCRForCausalLM",
        fixed(input_ids=ids, encoder_hidden_states=lambda: torch.randn(BATCH, 4, 32)),
    ),
)

VISION: tuple[Row, ...] = (
    ("vit", "ViTConfig", PIXELS, "ViTForImageClassification", image()),
    ("deit", "DeiTConfig", PIXELS, "DeiTForImageClassification", image()),
    (
        "beit",
        "BeitConfig",
        {**PIXELS, "use_relative_position_bias": True, "out_indices": [1, 2]},
        "BeitForImageClassification",
        image(),
    ),
    (
        "data2vec-vision",
        "Data2VecVisionConfig",
        {**PIXELS, "use_relative_position_bias": True},
        "Data2VecVisionForImageClassification",
        image(),
    ),
    ("dinov2", "Dinov2Config", {**PIXELS, "mlp_ratio": 2}, "Dinov2ForImageClassification", image()),
    (
        "dinov2-with-registers",
        "Dinov2WithRegistersConfig",
        {**PIXELS, "mlp_ratio": 2},
        "Dinov2WithRegistersForImageClassification",
        image(),
    ),
    ("dinov3-vit", "DINOv3ViTConfig", PIXELS, "DINOv3ViTModel", image()),
    ("ijepa", "IJepaConfig", PIXELS, "IJepaForImageClassification", image()),
    ("vit-msn", "ViTMSNConfig", PIXELS, "ViTMSNForImageClassification", image()),
    (
        "vit-mae",
        "ViTMAEConfig",
        {
            **PIXELS,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
        },
        "ViTMAEForPreTraining",
        fixed(
            pixel_values=lambda: torch.randn(BATCH, 3, 32, 32), noise=lambda: torch.rand(BATCH, 16)
        ),
    ),
    (
        "swin",
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 5,
        },
        "SwinForImageClassification",
        image(),
    ),
    (
        "swinv2",
        "Swinv2Config",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 5,
        },
        "Swinv2ForImageClassification",
        image(),
    ),
    (
        "swin2sr",
        "Swin2SRConfig",
        {
            "image_size": 16,
            "patch_size": 1,
            "embed_dim": 16,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
            "upscale": 2,
        },
        "Swin2SRForImageSuperResolution",
        image(16),
    ),
    (
        "convnext",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5},
        "ConvNextForImageClassification",
        image(64),
    ),
    (
        "convnextv2",
        "ConvNextV2Config",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5},
        "ConvNextV2ForImageClassification",
        image(64),
    ),
    (
        "cvt",
        "CvtConfig",
        {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "num_labels": 5},
        "CvtForImageClassification",
        image(64),
    ),
    (
        "poolformer",
        "PoolFormerConfig",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5},
        "PoolFormerForImageClassification",
        image(64),
    ),
    (
        "pvt",
        "PvtConfig",
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "num_labels": 5,
        },
        "PvtForImageClassification",
        image(64),
    ),
    (
        "pvt-v2",
        "PvtV2Config",
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "num_labels": 5,
        },
        "PvtV2ForImageClassification",
        image(64),
    ),
    (
        "segformer",
        "SegformerConfig",
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 16,
            "num_labels": 5,
        },
        "SegformerForSemanticSegmentation",
        image(64),
    ),
    (
        "mobilevit",
        "MobileViTConfig",
        {
            "initializer_range": 0.2,
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 4,
            "num_labels": 5,
        },
        "MobileViTForImageClassification",
        image(128),
    ),
    (
        "mobilevitv2",
        "MobileViTV2Config",
        {"image_size": 64, "width_multiplier": 0.25, "num_labels": 5},
        "MobileViTV2ForImageClassification",
        image(64),
    ),
    (
        "mobilenet-v1",
        "MobileNetV1Config",
        {"image_size": 64, "depth_multiplier": 0.25, "num_labels": 5},
        "MobileNetV1ForImageClassification",
        image(64),
    ),
    (
        "mobilenet-v2",
        "MobileNetV2Config",
        {"image_size": 64, "depth_multiplier": 0.25, "num_labels": 5},
        "MobileNetV2ForImageClassification",
        image(64),
    ),
    (
        "resnet",
        "ResNetConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "num_labels": 5,
        },
        "ResNetForImageClassification",
        image(64),
    ),
    (
        "regnet",
        "RegNetConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "groups_width": 8,
            "num_labels": 5,
        },
        "RegNetForImageClassification",
        image(64),
    ),
    (
        "bit",
        "BitConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "num_groups": 1,
            "num_labels": 5,
        },
        "BitForImageClassification",
        image(64),
    ),
    (
        "efficientnet",
        "EfficientNetConfig",
        {
            "initializer_range": 0.2,
            "image_size": 64,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.5,
            "hidden_dim": 320,
            "num_labels": 5,
        },
        "EfficientNetForImageClassification",
        image(64),
    ),
    (
        "levit",
        "LevitConfig",
        {
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 2],
            "key_dim": [8, 8, 8],
            "num_labels": 5,
        },
        "LevitForImageClassification",
        image(128),
    ),
    (
        "focalnet",
        "FocalNetConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "num_labels": 5,
        },
        "FocalNetForImageClassification",
        image(),
    ),
    (
        "hiera",
        "HieraConfig",
        {
            "image_size": [64, 64],
            "embed_dim": 16,
            "depths": [1, 1, 1],
            "num_heads": [1, 2, 4],
            "num_query_pool": 2,
            "masked_unit_size": [4, 4],
            "num_labels": 5,
        },
        "HieraForImageClassification",
        image(64),
    ),
    (
        "swiftformer",
        "SwiftFormerConfig",
        {"image_size": 64, "embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 5},
        "SwiftFormerForImageClassification",
        image(64),
    ),
    (
        "textnet",
        "TextNetConfig",
        {
            "hidden_sizes": [8, 8, 16, 16, 24],
            "stem_out_channels": 8,
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
            "conv_layer_strides": [[2], [2], [1], [1]],
            "num_labels": 5,
        },
        "TextNetForImageClassification",
        image(64),
    ),
    (
        "dpt",
        "DPTConfig",
        {
            **PIXELS,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 8,
        },
        "DPTForDepthEstimation",
        image(),
    ),
    (
        "glpn",
        "GLPNConfig",
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 8,
        },
        "GLPNForDepthEstimation",
        image(64),
    ),
    (
        "yolos",
        "YolosConfig",
        {**PIXELS, "image_size": [32, 32], "num_detection_tokens": 5},
        "YolosForObjectDetection",
        image(),
    ),
    (
        "detr",
        "DetrConfig",
        {
            **DETR,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
        },
        "DetrForObjectDetection",
        image(64),
    ),
    (
        "conditional-detr",
        "ConditionalDetrConfig",
        {
            **DETR,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
        },
        "ConditionalDetrForObjectDetection",
        image(64),
    ),
    (
        "deformable-detr",
        "DeformableDetrConfig",
        {
            **DETR,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage2", "stage3", "stage4"],
            },
        },
        "DeformableDetrForObjectDetection",
        image(64),
    ),
    (
        "upernet",
        "UperNetConfig",
        {
            "hidden_size": 16,
            "num_labels": 5,
            "auxiliary_in_channels": 24,
            "pool_scales": [1, 2],
            "backbone_config": {
                "model_type": "convnext",
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        },
        "UperNetForSemanticSegmentation",
        image(64),
    ),
    (
        "imagegpt",
        "ImageGPTConfig",
        {**GPT, "vocab_size": VOCABULARY},
        "ImageGPTForCausalImageModeling",
        text,
    ),
    (
        "videomae",
        "VideoMAEConfig",
        {**PIXELS, "num_frames": 2, "tubelet_size": 2},
        "VideoMAEForVideoClassification",
        video(),
    ),
    (
        "vivit",
        "VivitConfig",
        {**PIXELS, "num_frames": 2, "tubelet_size": [2, 8, 8]},
        "VivitForVideoClassification",
        video(),
    ),
    (
        "timesformer",
        "TimesformerConfig",
        {**PIXELS, "num_frames": 2},
        "TimesformerForVideoClassification",
        video(),
    ),
    (
        "vitpose",
        "VitPoseConfig",
        {
            "num_labels": 5,
            "scale_factor": 2,
            "backbone_config": {
                "model_type": "vitpose_backbone",
                **DEEP,
                "image_size": [32, 32],
                "patch_size": [8, 8],
                "out_indices": [2],
                "num_experts": 1,
            },
        },
        "VitPoseForPoseEstimation",
        image(),
    ),
    (
        "superpoint",
        "SuperPointConfig",
        {
            "encoder_hidden_sizes": [8, 8, 16, 16],
            "decoder_hidden_size": 16,
            "keypoint_decoder_dim": 65,
            "descriptor_decoder_dim": 16,
        },
        "SuperPointForKeypointDetection",
        image(32),
    ),
)

SOUND: tuple[Row, ...] = (
    ("wav2vec2", "Wav2Vec2Config", SPEECH, "Wav2Vec2ForCTC", wave()),
    ("wav2vec2-conformer", "Wav2Vec2ConformerConfig", SPEECH, "Wav2Vec2ConformerForCTC", wave()),
    (
        "wav2vec2-bert",
        "Wav2Vec2BertConfig",
        {**SPEECH, "feature_projection_input_dim": 16},
        "Wav2Vec2BertForCTC",
        mel(12, 16),
    ),
    ("hubert", "HubertConfig", SPEECH, "HubertForCTC", wave()),
    ("wavlm", "WavLMConfig", SPEECH, "WavLMForCTC", wave()),
    ("unispeech", "UniSpeechConfig", {**SPEECH, "num_ctc_classes": 20}, "UniSpeechForCTC", wave()),
    ("unispeech-sat", "UniSpeechSatConfig", SPEECH, "UniSpeechSatForCTC", wave()),
    (
        "data2vec-audio",
        "Data2VecAudioConfig",
        {**SPEECH, "conv_pos_kernel_size": 5},
        "Data2VecAudioForCTC",
        wave(),
    ),
    ("sew", "SEWConfig", {**SPEECH, "squeeze_factor": 2}, "SEWForCTC", wave()),
    (
        "sew-d",
        "SEWDConfig",
        {**SPEECH, "squeeze_factor": 2, "position_buckets": 8, "max_position_embeddings": 64},
        "SEWDForCTC",
        wave(),
    ),
    (
        "audio-spectrogram-transformer",
        "ASTConfig",
        {
            **DEEP,
            "intermediate_size": 64,
            "patch_size": 4,
            "frequency_stride": 4,
            "time_stride": 4,
            "max_length": 16,
            "num_mel_bins": 16,
            "num_labels": 5,
        },
        "ASTForAudioClassification",
        mel(16, 16, "input_values"),
    ),
    (
        "whisper",
        "WhisperConfig",
        {
            **BART,
            "num_mel_bins": 16,
            "max_source_positions": 12,
            "max_target_positions": 16,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        "WhisperForConditionalGeneration",
        partial(speech, 16, 24),
    ),
    (
        "speech-to-text",
        "Speech2TextConfig",
        {
            **BART,
            "input_feat_per_channel": 16,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 64,
        },
        "Speech2TextForConditionalGeneration",
        fixed(input_features=lambda: torch.randn(BATCH, 24, 16), decoder_input_ids=lambda: ids(5)),
    ),
    (
        "moonshine",
        "MoonshineConfig",
        {
            **TOKENS,
            "hidden_size": 32,
            "intermediate_size": 64,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "use_cache": False,
            "decoder_start_token_id": 1,
        },
        "MoonshineForConditionalGeneration",
        fixed(input_values=lambda: torch.randn(BATCH, 2000), decoder_input_ids=lambda: ids(5)),
    ),
    (
        "encodec",
        "EncodecConfig",
        {
            "hidden_size": 16,
            "num_filters": 4,
            "codebook_size": 16,
            "codebook_dim": 16,
            "upsampling_ratios": [4, 2],
            "num_lstm_layers": 1,
            "norm_type": "weight_norm",
        },
        "EncodecModel",
        lambda: {"input_values": torch.randn(BATCH, 1, 240)},
    ),
    ("univnet", "UnivNetConfig", {}, "UnivNetModel", mel(8, 100)),
    (
        "speecht5",
        "SpeechT5Config",
        {
            **TOKENS,
            "hidden_size": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 16,
            "speech_decoder_prenet_units": 16,
            "speech_decoder_postnet_units": 16,
            "speech_decoder_postnet_layers": 2,
            "speaker_embedding_dim": 8,
            "reduction_factor": 1,
            "use_cache": False,
        },
        "SpeechT5ForTextToSpeech",
        fixed(
            input_ids=ids,
            decoder_input_values=lambda: torch.randn(BATCH, 6, 16),
            speaker_embeddings=lambda: torch.randn(BATCH, 8),
        ),
    ),
)

MIXED: tuple[Row, ...] = (
    ("clip", "CLIPConfig", CLIP, "CLIPModel", both),
    ("chinese-clip", "ChineseCLIPConfig", CLIP, "ChineseCLIPModel", both),
    ("metaclip-2", "MetaClip2Config", CLIP, "MetaClip2Model", both),
    ("siglip", "SiglipConfig", CLIP, "SiglipModel", both),
    (
        "altclip",
        "AltCLIPConfig",
        {**CLIP, "text_config": {**CLIP_TEXT, "project_dim": 32}},
        "AltCLIPModel",
        both,
    ),
    (
        "clipseg",
        "CLIPSegConfig",
        {
            **CLIP,
            "extract_layers": [0, 1],
            "reduce_dim": 16,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
        },
        "CLIPSegForImageSegmentation",
        both,
    ),
    (
        "groupvit",
        "GroupViTConfig",
        {
            "projection_dim": 32,
            "projection_intermediate_dim": 32,
            "text_config": CLIP_TEXT,
            "vision_config": {
                **CLIP_VISION,
                "depths": [1, 1, 1],
                "num_group_tokens": [4, 2, 0],
                "num_output_groups": [4, 2, 0],
            },
        },
        "GroupViTModel",
        both,
    ),
    (
        "owlvit",
        "OwlViTConfig",
        {**CLIP, "text_config": {**CLIP_TEXT, "max_position_embeddings": LENGTH}},
        "OwlViTForObjectDetection",
        both,
    ),
    (
        "blip",
        "BlipConfig",
        {
            **CLIP,
            "text_config": {
                **CLIP_TEXT,
                "is_decoder": True,
                "encoder_hidden_size": 32,
                "use_cache": False,
            },
            "image_text_hidden_size": 32,
        },
        "BlipForConditionalGeneration",
        both,
    ),
    (
        "vilt",
        "ViltConfig",
        {**ENCODER, "image_size": 32, "patch_size": 8, "num_images": -1, "num_labels": 5},
        "ViltForQuestionAnswering",
        both,
    ),
    (
        "git",
        "GitConfig",
        {**ENCODER, "use_cache": False, "vision_config": CLIP_VISION},
        "GitForCausalLM",
        both,
    ),
    (
        "visual-bert",
        "VisualBertConfig",
        {**ENCODER, "visual_embedding_dim": 32},
        "VisualBertModel",
        regions,
    ),
    (
        "lxmert",
        "LxmertConfig",
        {
            **ENCODER,
            "num_attention_heads": 4,
            "l_layers": 1,
            "x_layers": 1,
            "r_layers": 1,
            "visual_feat_dim": 16,
            "visual_pos_dim": 4,
        },
        "LxmertModel",
        fixed(
            input_ids=ids,
            visual_feats=lambda: torch.randn(BATCH, 4, 16),
            visual_pos=lambda: torch.rand(BATCH, 4, 4),
        ),
    ),
    (
        "flava",
        "FlavaConfig",
        {
            "text_config": ENCODER,
            "image_config": CLIP_VISION,
            "multimodal_config": {**DEEP, "intermediate_size": 64},
            "hidden_size": 32,
        },
        "FlavaModel",
        both,
    ),
    (
        "llava",
        "LlavaConfig",
        {
            "text_config": {"model_type": "llama", **DECODER},
            "vision_config": {"model_type": "clip_vision_model", **CLIP_VISION},
            "image_token_index": 98,
            "vision_feature_layer": -1,
        },
        "LlavaForConditionalGeneration",
        lambda: {
            "input_ids": torch.cat(
                [torch.full((BATCH, 16), 98), torch.randint(3, 98, (BATCH, 4))], 1
            ),
            "pixel_values": torch.randn(BATCH, 3, 32, 32),
        },
    ),
)

OTHERS: tuple[Row, ...] = (
    ("time-series-transformer", "TimeSeriesTransformerConfig", SERIES,
     "TimeSeriesTransformerForPrediction", series),
    ("informer", "InformerConfig", SERIES, "InformerForPrediction", series),
    ("patchtst", "PatchTSTConfig", {"num_input_channels": 2, "context_length": 32,
     "patch_length": 8, "patch_stride": 8, "num_hidden_layers": 2, "d_model": 32,
     "num_attention_heads": 4, "ffn_dim": 64, "prediction_length": 4},
     "PatchTSTForPrediction", fixed(past_values=lambda: torch.randn(BATCH, 32, 2))),
    ("patchtsmixer", "PatchTSMixerConfig", {"num_input_channels": 2, "context_length": 32,
     "patch_length": 8, "patch_stride": 8, "num_layers": 2, "d_model": 16,
     "prediction_length": 4}, "PatchTSMixerForPrediction",
     fixed(past_values=lambda: torch.randn(BATCH, 32, 2))),
    ("decision-transformer", "DecisionTransformerConfig", {"state_dim": 5, "act_dim": 3,
     "hidden_size": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "max_ep_len": 20,
     "use_cache": False},
     "DecisionTransformerModel", fixed(
     states=lambda: torch.randn(BATCH, 4, 5), actions=lambda: torch.randn(BATCH, 4, 3),
     rewards=lambda: torch.randn(BATCH, 4, 1), returns_to_go=lambda: torch.randn(BATCH, 4, 1),
     timesteps=lambda: torch.arange(4).expand(BATCH, 4),
     attention_mask=lambda: torch.ones(BATCH, 4, dtype=torch.long))),
)  # fmt: skip


def make(row: Row) -> tuple[nn.Module, Example]:
    """Build an architecture from its config, and draw its example."""
    import transformers

    _, kind, settings, model, example = row
    config = getattr(transformers, kind)(**settings)
    widen(config)
    return getattr(transformers, model)(config), example()


def widen(config: Any) -> None:
    """Raise `initializer_range`, since 0.02 makes the signal vanish at these small widths."""
    for part in vars(config).values():
        if hasattr(part, "to_dict"):
            widen(part)
    if 0 < getattr(config, "initializer_range", 1.0) < INITIAL:
        config.initializer_range = INITIAL


MODULES = "transformers.models"

REMEDIES = {
    "recurrent-gemma": Remedy(
        "lra.register_activation(SqrtBoundDerivative)",
        register=f"{MODULES}.recurrent_gemma.modeling_recurrent_gemma.SqrtBoundDerivative",
    ),
    "sew-d": Remedy("skip=(XSoftmax,)", keep=f"{MODULES}.sew_d.modeling_sew_d.XSoftmax"),
}

ENTRIES = [
    Entry(row[0], partial(make, row), row[3], REMEDIES.get(row[0]))
    for row in DECODERS + MIXTURES + STATES + ENCODERS + PAIRS + VISION + SOUND + MIXED + OTHERS
]
