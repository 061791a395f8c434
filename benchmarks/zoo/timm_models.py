"""timm: one small model of each family, that is, of each module of `timm.models`.

Each is the smallest model of its family, or its `test_` model if there is one, with arguments that
make it smaller where needed. No weights are downloaded.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from zoo import torchvision_stand_in
from zoo.measure import Entry, Example

CLASSES = 10

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
"""Arguments of a small vision transformer."""

SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}

MODELS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    # family, model, image size, further arguments
    ("beit", "beit_base_patch16_224", 64, {"img_size": 64, **VIT}),
    ("byoanet", "halonet_h1", 256, {}),
    ("byobnet", "test_byobnet", 64, {}),
    ("cait", "cait_xxs24_224", 64, {"img_size": 64, "depth": 2}),
    ("coat", "coat_tiny", 64, {"img_size": 64}),
    ("convit", "convit_tiny", 64, {"img_size": 64, "depth": 4, "local_up_to_layer": 2}),
    ("convmixer", "convmixer_768_32", 64, {}),
    ("convnext", "test_convnext", 64, {}),
    ("cpubone", "cpubone_nano", 64, {}),
    ("crossvit", "crossvit_tiny_240", 240, {}),
    ("csatv2", "csatv2", 128, {}),
    ("cspnet", "cs3darknet_s", 64, {}),
    ("cspnext", "cspnext_tiny", 64, {}),
    ("davit", "davit_tiny", 64, {"embed_dims": (24, 48, 72, 96), "num_heads": (1, 2, 3, 4),
                                 "depths": (1, 1, 2, 1)}),
    ("deepseek_vit", "deepseek_vit_412m", 84, {"img_size": 84, **VIT, "num_heads": 2}),
    ("deit", "deit_tiny_distilled_patch16_224", 64, {"img_size": 64, "depth": 2}),
    ("densenet", "densenet121", 64, {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    ("dla", "dla46_c", 64, {}),
    ("dpn", "dpn48b", 64, {}),
    ("edgenext", "edgenext_xx_small", 64, {}),
    ("efficientformer", "efficientformer_l1", 224, {}),
    ("efficientformer_v2", "efficientformerv2_s0", 64, {"img_size": 64}),
    ("efficientnet", "test_efficientnet", 64, {}),
    ("efficientvim", "efficientvim_m1", 128, {}),
    ("efficientvit_mit", "efficientvit_b0", 64, {}),
    ("efficientvit_msra", "efficientvit_m0", 224, {}),
    ("eva", "eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 2}),
    ("fasternet", "fasternet_t0", 64, {}),
    ("fastvit", "fastvit_t8", 64, {}),
    ("focalnet", "focalnet_tiny_srf", 64, {}),
    ("gcvit", "gcvit_xxtiny", 224, {}),
    ("gemma4_vit", "gemma4_vit_167m", 96, {"img_size": 96, **VIT, "num_heads": 3, "head_dim": 16,
                                           "num_kv_heads": 3, "intermediate_size": 96,
                                           "position_embedding_size": 64}),
    ("ghostnet", "ghostnet_050", 64, {}),
    ("hardcorenas", "hardcorenas_a", 64, {}),
    ("hgnet", "hgnetv2_b0", 64, {}),
    ("hiera", "hiera_tiny_224", 64, {"img_size": (64, 64), "embed_dim": 24,
                                     "stages": (1, 1, 2, 1)}),
    ("hieradet_sam2", "sam2_hiera_tiny", 128, {"embed_dim": 24, "stages": (1, 1, 2, 1),
                                               "global_att_blocks": (3,)}),
    ("hrnet", "hrnet_w18_small", 64, {}),
    ("iformer", "iformer_t", 64, {}),
    ("inception_next", "inception_next_atto", 64, {}),
    ("inception_resnet_v2", "inception_resnet_v2", 96, {}),
    ("inception_v3", "inception_v3", 96, {}),
    ("inception_v4", "inception_v4", 96, {}),
    ("lcnetv2", "lcnetv2_small", 64, {}),
    ("levit", "levit_128s", 128, {"img_size": 128}),
    ("lowformer", "lowformer_b0", 64, {}),
    ("mambaout", "test_mambaout", 64, {}),
    ("maxxvit", "test_maxvit", 64, {"img_size": 64}),
    ("metaformer", "poolformer_s12", 64, {}),
    ("mlp_mixer", "gmlp_ti16_224", 64, {"img_size": 64}),
    ("mobilenetv3", "mobilenetv3_small_050", 64, {}),
    ("mobilenetv5", "mobilenetv5_base", 64, {}),
    ("mobilevit", "mobilevit_xxs", 64, {}),
    ("mvitv2", "mvitv2_tiny", 64, {"img_size": 64}),
    ("naflexvit", "naflexvit_base_patch16_gap", 64, {**VIT}),
    ("nasnet", "nasnetalarge", 96, {"num_features": 384}),
    ("nest", "nest_tiny", 64, {"img_size": 64}),
    ("nextvit", "nextvit_small", 64, {}),
    ("nfnet", "test_nfnet", 64, {}),
    ("pit", "pit_ti_224", 64, {"img_size": 64}),
    ("pnasnet", "pnasnet5large", 96, {}),
    ("pvt_v2", "pvt_v2_b0", 64, {}),
    ("qwen3_vit", "qwen3_vit_88m", 64, {"img_size": 64, **VIT, "num_heads": 3}),
    ("rdnet", "rdnet_tiny", 64, {"growth_rates": (16, 24, 32, 32, 32, 32, 32),
                                 "num_blocks_list": (1, 1, 1, 1, 1, 1, 1)}),
    ("regnet", "regnety_002", 64, {}),
    ("repghost", "repghostnet_050", 64, {}),
    ("repvit", "repvit_m0_9", 64, {}),
    ("res2net", "res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    ("resnest", "resnest14d", 64, {}),
    ("resnet", "test_resnet", 64, {}),
    ("resnetv2", "resnetv2_18", 64, {}),
    ("rexnet", "rexnet_100", 64, {}),
    ("selecsls", "selecsls42", 64, {}),
    ("senet", "legacy_seresnet18", 64, {}),
    ("sequencer", "sequencer2d_s", 56, {"layers": (1, 1, 1, 1),
                                        "embed_dims": (24, 48, 48, 48),
                                        "hidden_sizes": (6, 12, 12, 12)}),
    ("shvit", "shvit_s1", 128, {}),
    ("sknet", "skresnet18", 64, {}),
    ("starnet", "starnet_s050", 64, {}),
    ("swiftformer", "swiftformer_xs", 64, {}),
    ("swin_transformer", "swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4,
                                                              **SWIN}),
    ("swin_transformer_v2", "swinv2_tiny_window8_256", 64, {"img_size": 64, "window_size": 4,
                                                            **SWIN}),
    ("swin_transformer_v2_cr", "swinv2_cr_tiny_224", 64, {"img_size": 64, "window_size": 2,
                                                          **SWIN}),
    ("tiny_vit", "tiny_vit_5m_224", 64, {}),
    ("tnt", "tnt_s_patch16_224", 64, {"img_size": 64, "embed_dim": 48, "inner_dim": 12,
                                      "depth": 2, "num_heads_outer": 4}),
    ("tresnet", "tresnet_m", 64, {"width_factor": 0.25, "layers": (1, 1, 2, 1)}),
    ("twins", "twins_svt_small", 64, {"img_size": 64, "embed_dims": (16, 32, 48, 64),
                                      "num_heads": (1, 2, 3, 4), "depths": (1, 2, 2, 2)}),
    ("vgg", "vgg11_bn", 64, {"mlp_ratio": 0.03125}),
    ("visformer", "visformer_tiny", 64, {"img_size": 64}),
    ("vision_transformer", "test_vit", 64, {"img_size": 64}),
    ("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", 128, {"img_size": 128, "depth": 2}),
    ("vision_transformer_relpos", "test_vit_relpos", 64, {"img_size": 64}),
    ("vision_transformer_sam", "samvit_base_patch16_224", 64, {"img_size": 64, **VIT,
                                                               "global_attn_indexes": (1,),
                                                               "window_size": 2}),
    ("vitamin", "vitamin_small_224", 64, {"img_size": 64}),
    ("volo", "volo_d1_224", 64, {"img_size": 64}),
    ("vovnet", "ese_vovnet19b_slim_dw", 64, {}),
    ("xception", "legacy_xception", 96, {}),
    ("xception_aligned", "xception41p", 64, {}),
    ("xcit", "xcit_nano_12_p16_224", 64, {"depth": 2}),
)  # fmt: skip


def make(model: str, size: int, arguments: dict[str, Any]) -> tuple[nn.Module, Example]:
    """Build a timm model, and two random images."""
    torchvision_stand_in.install()
    import timm

    built = timm.create_model(model, pretrained=False, num_classes=CLASSES, **arguments)
    return built, (torch.randn(2, 3, size, size),)


ENTRIES = [
    Entry(family, partial(make, model, size, arguments), model)
    for family, model, size, arguments in MODELS
]
