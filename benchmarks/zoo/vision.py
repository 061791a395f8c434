"""Models of images from libraries other than timm: generators, segmenters and transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.measure import Example, entry, load

Built = tuple[nn.Module, Example]

BATCH, CLASSES = 2, 5


def images(size: int = 32, channels: int = 3, dimensions: int = 2) -> Tensor:
    """Return random images or volumes."""
    return torch.randn(BATCH, channels, *[size] * dimensions)


class Tokenizer(nn.Module):
    """Quantises the features of an autoencoder to a learned codebook."""

    def __init__(self, quantiser: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 8, 1))
        self.quantiser = quantiser
        self.decoder = nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        quantised, *_ = self.quantiser(y.flatten(2).transpose(1, 2))
        return self.decoder(quantised.transpose(1, 2).reshape(y.shape))


def diffusers_unet() -> Built:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return model, (images(8, 4), torch.tensor([3, 7]), torch.randn(BATCH, 5, 16))


def diffusers_vae() -> Built:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    return model, (images(16),)


def diffusers_sd3() -> Built:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    example = {
        "hidden_states": images(8, 4),
        "encoder_hidden_states": torch.randn(BATCH, 5, 16),
        "pooled_projections": torch.randn(BATCH, 16),
        "timestep": torch.tensor([3, 7]),
    }
    return model, example


def diffusers_flux() -> Built:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    example = {
        "hidden_states": torch.randn(BATCH, 16, 4),
        "encoder_hidden_states": torch.randn(BATCH, 5, 16),
        "pooled_projections": torch.randn(BATCH, 16),
        "timestep": torch.rand(BATCH),
        "img_ids": torch.randint(4, (16, 3)),
        "txt_ids": torch.zeros(5, 3),
    }
    return model, example


def denoising_unet() -> Built:
    from denoising_diffusion_pytorch import Unet

    model = Unet(16, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8, learned_sinusoidal_cond=True)
    return model, (images(16), torch.tensor([3.0, 7.0]))


def monai(name: str, *arguments: Any, size: int = 32, dimensions: int = 3, **more: Any) -> Built:
    """Build a network of MONAI, and two volumes or images of one channel."""
    return load(f"monai.networks.nets.{name}", *arguments, **more), (images(size, 1, dimensions),)


def vit_pytorch(module: str, name: str, size: int = 32, **options: Any) -> Built:
    """Build a transformer of vit-pytorch."""
    built = load(f"vit_pytorch.{module}.{name}", num_classes=CLASSES, **options)
    return built, (images(size),)


def segmenter(name: str, **options: Any) -> Built:
    """Build a segmentation model with an untrained encoder."""
    path = f"segmentation_models_pytorch.{name}"
    built = load(path, "resnet18", encoder_weights=None, classes=CLASSES, **options)
    return built, (images(64),)


def torchvision(name: str, size: int = 64, group: str = "", **options: Any) -> Built:
    """Build a model of torchvision, without weights."""
    return load(f"torchvision.models{group}.{name}", weights=None, **options), (images(size),)


def optical_flow() -> Built:
    model, _ = torchvision("raft_small", group=".optical_flow")
    return model, (images(128), images(128), 2)


def contrastive() -> Built:
    """Build an encoder with the projection and the prediction head of SimSiam."""
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    encoder = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    heads = SimSiamProjectionHead(16, 16, 8), SimSiamPredictionHead(8, 4, 8)
    return nn.Sequential(encoder, *heads), (images(),)


def open_clip() -> Built:
    from open_clip.model import CLIP

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}
    return CLIP(16, vision, text), (images(), torch.randint(50, (BATCH, 8)))


def mixer() -> Built:
    from mlp_mixer_pytorch import MLPMixer

    model = MLPMixer(image_size=32, channels=3, patch_size=8, dim=24, depth=2, num_classes=CLASSES)
    return model, (images(),)


def soft_experts() -> Built:
    from soft_moe_pytorch import SoftMoE

    return nn.Sequential(SoftMoE(16, seq_len=6, num_experts=3), nn.Linear(16, 4)), (
        torch.randn(BATCH, 6, 16),
    )


def quantised(name: str, **options: Any) -> Built:
    """Build an autoencoder with a quantiser of vector-quantize-pytorch."""
    return Tokenizer(load(f"vector_quantize_pytorch.{name}", **options)), (images(16),)


def descriptor() -> Built:
    from kornia.feature import HardNet

    return HardNet(pretrained=False), (images(32, 1),)


VIT = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48}

ENTRIES = [
    entry("diffusers-unet", diffusers_unet),
    entry("diffusers-vae", diffusers_vae),
    entry("diffusers-sd3", diffusers_sd3),
    entry("diffusers-flux", diffusers_flux),
    entry("denoising-unet", denoising_unet),
    entry("monai-unet", monai, "UNet", 3, 1, 2, (4, 8, 16), (2, 2), num_res_units=1, act="PRELU"),
    entry("monai-segresnet", monai, "SegResNet", 3, 8, blocks_down=(1, 1), blocks_up=(1,)),
    entry("monai-unetr", monai, "UNETR", 1, 2, (32, 32, 32), 4, 24, 32, 2),
    entry(
        "monai-swin-unetr",
        monai,
        "SwinUNETR",
        1,
        2,
        size=64,
        dimensions=2,
        spatial_dims=2,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        feature_size=12,
    ),
    entry("vit-pytorch-vit", vit_pytorch, "vit", "ViT", image_size=32, patch_size=8, **VIT),
    entry(
        "vit-pytorch-cct",
        vit_pytorch,
        "cct",
        "CCT",
        img_size=32,
        embedding_dim=32,
        n_conv_layers=1,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
        positional_embedding="learnable",
    ),
    entry(
        "vit-pytorch-cvt",
        vit_pytorch,
        "cvt",
        "CvT",
        s1_emb_dim=8,
        s1_heads=1,
        s2_emb_dim=12,
        s2_heads=1,
        s2_depth=1,
        s3_emb_dim=16,
        s3_heads=1,
        s3_depth=1,
    ),
    entry(
        "vit-pytorch-max-vit",
        vit_pytorch,
        "max_vit",
        "MaxViT",
        dim=16,
        dim_conv_stem=8,
        depth=(1, 1),
        dim_head=8,
        window_size=4,
    ),
    entry("smp-unet", segmenter, "Unet", decoder_channels=(32, 24, 16, 8, 8)),
    entry("smp-deeplabv3plus", segmenter, "DeepLabV3Plus", decoder_channels=16),
    entry(
        "smp-manet", segmenter, "MAnet", decoder_channels=(32, 24, 16, 8, 8), decoder_pab_channels=8
    ),
    entry("torchvision-resnet18", torchvision, "resnet18"),
    entry(
        "torchvision-lraspp",
        torchvision,
        "lraspp_mobilenet_v3_large",
        group=".segmentation",
        weights_backbone=None,
    ),
    entry("torchvision-raft", optical_flow),
    entry("lightly-simsiam", contrastive),
    entry("open-clip", open_clip),
    entry("mlp-mixer", mixer),
    entry("soft-moe", soft_experts),
    entry("finite-scalar-quantize", quantised, "FSQ", levels=[5, 5, 5], dim=8),
    entry("kornia-hardnet", descriptor),
]
