"""Models of text, time series and tables: adapters, transformers, recommenders, state spaces."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.measure import Example, Remedy, entry, load

Built = tuple[nn.Module, Example]

BATCH, LENGTH, WIDTH, VOCABULARY, OUTPUTS = 2, 8, 16, 50, 4


class Keywords(nn.Module):
    """Passes the arguments of a model as one mapping, under fixed keys."""

    def __init__(self, model: nn.Module, *keys: str) -> None:
        super().__init__()
        self.model, self.keys = model, keys

    def forward(self, *values: Tensor) -> Any:
        return self.model(dict(zip(self.keys, values, strict=True)))


class Training(nn.Module):
    """Runs a model in training mode, which reversible layers need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model.train()(x)


def tokens(length: int = LENGTH) -> Tensor:
    """Return random token ids."""
    return torch.randint(VOCABULARY, (BATCH, length))


def features(*shape: int) -> Tensor:
    """Return a batch of random features."""
    return torch.randn(BATCH, *shape)


def model(path: str, *inputs: Callable[[], Tensor], **options: Any) -> Built:
    """Build a class by its qualified name, and draw its inputs."""
    return load(path, **options), tuple(draw() for draw in inputs)


def adapted(config: str, **options: Any) -> Built:
    """Build a small Llama with an adapter of peft."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            use_cache=False,
        )
    )
    built = peft.get_peft_model(base, getattr(peft, config)(task_type="CAUSAL_LM", **options))
    return built, {"input_ids": tokens()}


def x_transformer(**options: Any) -> Built:
    """Build a causal language model of x-transformers."""
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=WIDTH, depth=2, heads=2, attn_dim_head=8, **options)
    return TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=16, attn_layers=layers), (
        tokens(),
    )


def performer() -> Built:
    from performer_pytorch import PerformerLM

    built = PerformerLM(
        num_tokens=VOCABULARY, max_seq_len=16, dim=WIDTH, depth=2, heads=2, dim_head=8,
        nb_features=6,
    )  # fmt: skip
    return built, (tokens(),)


def reformer(**options: Any) -> Built:
    from reformer_pytorch import ReformerLM

    built = ReformerLM(
        num_tokens=VOCABULARY, max_seq_len=16, dim=WIDTH, depth=2, heads=2, bucket_size=4,
        n_hashes=2, causal=False, **options,
    )  # fmt: skip
    return Training(built), (tokens(16),)


def sentences() -> Built:
    """Build a sentence encoder of word embeddings, convolutions, pooling and a dense layer."""
    from sentence_transformers.models import CNN, Dense, Pooling

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(VOCABULARY, WIDTH)
            self.layers = nn.Sequential(CNN(WIDTH, 8, [1, 3]), Pooling(16), Dense(16, 8))

        def forward(self, ids: Tensor) -> Tensor:
            batch = {"token_embeddings": self.table(ids), "attention_mask": torch.ones_like(ids)}
            batch["sentence_lengths"] = batch["attention_mask"].sum(1)
            found: Tensor = self.layers(batch)["sentence_embedding"]
            return found

    return Words(), (tokens(),)


def mamba(pscan: bool) -> Built:
    """Build a Mamba with or without its own parallel scan."""
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=8, n_layers=2, d_state=4, pscan=pscan)), (features(LENGTH, 8),)


def forecaster(name: str, **options: Any) -> Built:
    """Build a network of neuralforecast, and windows of one series."""
    built = load(f"neuralforecast.models.{name}", h=4, input_size=16, max_steps=1, **options)
    return Keywords(built, "insample_y", "insample_mask"), (
        features(16, 1),
        torch.ones(BATCH, 16, 1),
    )


FIELDS = [7, 5, 9]


def fields() -> Tensor:
    """Return random categories of each field."""
    return torch.stack([torch.randint(n, (4,)) for n in FIELDS], 1)


def recommender(path: str, **options: Any) -> Built:
    """Build a model of torchfm."""
    built = load(f"torchfm.model.{path}", field_dims=FIELDS, embed_dim=6, **options)
    return built, (fields(),)


def table(path: str, **options: Any) -> Built:
    """Build a tabular model of numbers and categories."""
    return load(path, **options), (
        torch.randn(6, 4),
        torch.stack([torch.randint(n, (6,)) for n in FIELDS], 1),
    )


def tabm(embeddings: str = "", **options: Any) -> Built:
    import rtdl_num_embeddings

    embed = None
    if embeddings == "PiecewiseLinearEmbeddings":
        bins = rtdl_num_embeddings.compute_bins(torch.randn(64, 4).float(), n_bins=4)
        embed = rtdl_num_embeddings.PiecewiseLinearEmbeddings(
            bins, d_embedding=6, activation=False, version="B"
        )
    elif embeddings:
        embed = getattr(rtdl_num_embeddings, embeddings)(4, 6, lite=True)
    built = load(
        "tabm.TabM", n_num_features=4, cat_cardinalities=FIELDS, d_out=2, n_blocks=2, d_block=12,
        k=3, dropout=0.0, num_embeddings=embed, start_scaling_init="random-signs", **options,
    )  # fmt: skip
    return built, table("torch.nn.Identity")[1]


def tabnet(**options: Any) -> Built:
    built = load(
        "pytorch_tabnet.tab_network.TabNet", input_dim=6, output_dim=3, n_d=4, n_a=4, n_steps=2,
        group_attention_matrix=torch.eye(6), **options,
    )  # fmt: skip
    return built, (torch.randn(8, 6),)


def click(name: str) -> Built:
    """Build a model of deepctr-torch."""
    import deepctr_torch.models as models
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    columns = [SparseFeat("user", 7, 4), SparseFeat("item", 9, 4), DenseFeat("price", 1)]
    built = getattr(models, name)(columns, columns, dnn_hidden_units=(8, 8), device="cpu")
    rows = torch.stack([torch.randint(7, (4,)), torch.randint(9, (4,)), torch.randn(4)], 1)
    return built, (rows,)


TABNET = Remedy("skip=(SparsemaxFunction,)", keep="pytorch_tabnet.sparsemax.SparsemaxFunction")
REFORMER = Remedy(
    "skip=(_ReversibleFunction,), input_layers=()",
    keep="reformer_pytorch.reversible._ReversibleFunction",
    arguments={"input_layers": ()},
)
PSCAN = Remedy("pscan=False", make=partial(mamba, False))
OFT = Remedy(
    'skip=["...q_proj.oft_R.default", ...]',
    arguments={
        "skip": tuple(
            f"base_model.model.model.layers.{i}.{name}.oft_R.default"
            for i in (0, 1)
            for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
        )
    },
)

LORA = {"target_modules": ["q_proj", "v_proj", "down_proj"]}

FT = {"n_cont_features": 4, "cat_cardinalities": FIELDS, "d_out": 2, "n_blocks": 2, "d_block": 16,
      "attention_n_heads": 2, "attention_dropout": 0.0, "ffn_d_hidden": None,
      "ffn_d_hidden_multiplier": 1.0, "ffn_dropout": 0.0, "residual_dropout": 0.0}  # fmt: skip

ENTRIES = [
    entry("peft-lora", adapted, "LoraConfig", r=2, **LORA),
    entry("peft-dora", adapted, "LoraConfig", r=2, use_dora=True, **LORA),
    entry(
        "peft-ia3",
        adapted,
        "IA3Config",
        feedforward_modules=["down_proj"],
        target_modules=["k_proj", "v_proj", "down_proj"],
    ),
    entry("peft-loha", adapted, "LoHaConfig", r=2, **LORA),
    entry("peft-vera", adapted, "VeraConfig", r=2, target_modules=["q_proj", "v_proj"]),
    entry("peft-oft", adapted, "OFTConfig", r=0, oft_block_size=4, remedy=OFT, **LORA),
    entry(
        "peft-prefix",
        adapted,
        "PrefixTuningConfig",
        num_virtual_tokens=3,
        prefix_projection=True,
        encoder_hidden_size=8,
    ),
    entry(
        "x-transformers-rotary", x_transformer, rotary_pos_emb=True, ff_glu=True, use_rmsnorm=True
    ),
    entry(
        "x-transformers-alibi",
        x_transformer,
        alibi_pos_bias=True,
        ff_relu_squared=True,
        attn_gate_values=True,
    ),
    entry("performer", performer),
    entry("reformer", reformer, remedy=REFORMER),
    entry(
        "linformer",
        model,
        "linformer.Linformer",
        partial(features, LENGTH, WIDTH),
        dim=WIDTH,
        seq_len=LENGTH,
        depth=2,
        heads=2,
        k=4,
    ),
    entry(
        "nystromformer",
        model,
        "nystrom_attention.Nystromformer",
        partial(features, 12, WIDTH),
        dim=WIDTH,
        dim_head=8,
        heads=2,
        depth=2,
        num_landmarks=4,
    ),
    entry(
        "local-attention",
        model,
        "local_attention.LocalTransformer",
        tokens,
        num_tokens=VOCABULARY,
        max_seq_len=16,
        dim=WIDTH,
        depth=2,
        heads=2,
        dim_head=8,
        local_attn_window_size=4,
        causal=True,
    ),
    entry(
        "perceiver",
        model,
        "perceiver_pytorch.Perceiver",
        partial(features, 6, 3),
        input_channels=3,
        input_axis=1,
        num_freq_bands=2,
        max_freq=4.0,
        depth=2,
        num_latents=4,
        latent_dim=8,
        cross_heads=1,
        latent_heads=2,
        cross_dim_head=8,
        latent_dim_head=4,
        num_classes=OUTPUTS,
        self_per_cross_attn=1,
    ),
    entry(
        "conformer",
        model,
        "conformer.Conformer",
        partial(features, LENGTH, WIDTH),
        dim=WIDTH,
        depth=1,
        dim_head=8,
        heads=2,
        ff_mult=2,
        conv_kernel_size=3,
    ),
    entry(
        "g-mlp",
        model,
        "g_mlp_pytorch.gMLP",
        tokens,
        num_tokens=VOCABULARY,
        dim=WIDTH,
        depth=2,
        seq_len=LENGTH,
        causal=True,
    ),
    entry("sentence-transformers", sentences),
    entry("mambapy", mamba, True, remedy=PSCAN),
    entry(
        "pytorch-tcn",
        model,
        "pytorch_tcn.TCN",
        partial(features, 3, 12),
        num_inputs=3,
        num_channels=[6, 6],
        kernel_size=3,
        use_norm="weight_norm",
    ),
    entry(
        "itransformer",
        model,
        "iTransformer.iTransformer",
        partial(features, 12, 3),
        num_variates=3,
        lookback_len=12,
        depth=2,
        dim=WIDTH,
        dim_head=8,
        heads=2,
        pred_length=4,
        flash_attn=False,
    ),
    entry("nbeats", forecaster, "NBEATS", mlp_units=[[12, 12]] * 3),
    entry(
        "patchtst",
        forecaster,
        "PatchTST",
        hidden_size=16,
        n_heads=2,
        encoder_layers=1,
        linear_hidden_size=16,
        patch_len=4,
        stride=4,
    ),
    entry("deepfm", recommender, "dfm.DeepFactorizationMachineModel", mlp_dims=(8, 8), dropout=0.0),
    entry(
        "xdeepfm",
        recommender,
        "xdfm.ExtremeDeepFactorizationMachineModel",
        mlp_dims=(8, 8),
        dropout=0.0,
        cross_layer_sizes=(6, 6),
    ),
    entry(
        "product-network",
        recommender,
        "pnn.ProductNeuralNetworkModel",
        mlp_dims=(8, 8),
        dropout=0.0,
        method="outer",
    ),
    entry("deep-cross", click, "DCN"),
    entry("deepctr-dcnmix", click, "DCNMix"),
    entry(
        "ft-transformer",
        table,
        "rtdl_revisiting_models.FTTransformer",
        **FT,
    ),
    entry("tabm", tabm),
    entry("tabm-periodic", tabm, "PeriodicEmbeddings"),
    entry(
        "tabm-piecewise",
        tabm,
        "PiecewiseLinearEmbeddings",
    ),
    entry("tabnet", tabnet, remedy=TABNET),
    entry(
        "tab-transformer",
        model,
        "tab_transformer_pytorch.FTTransformer",
        lambda: fields()[:BATCH],
        partial(features, 4),
        categories=FIELDS,
        num_continuous=4,
        dim=WIDTH,
        dim_out=2,
        depth=2,
        heads=2,
        dim_head=8,
    ),
]
