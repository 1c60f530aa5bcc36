"""SigLIP's network at any size; open_clip itself knows the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import open_clip
from open_clip.transformer import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

LOGIT_BIAS = -10.0
PLACEHOLDER = {"image_size": 32, "patch_size": 32, "width": 64, "layers": 1}
"""The smallest image tower; open_clip wants to build one."""


class SiglipTower(nn.Module):
    """(B, 3, S, S) normalised images to (B, D); its names are those of open_clip's timm towers."""

    def __init__(self, trunk: VisionTransformer) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images`."""
        features: Tensor = self.trunk(images)
        return features


def siglip_network(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config made by `hf_siglip.read_config`."""
    vision, quick = config["vision_cfg"], bool(config.get("quick_gelu"))
    network: nn.Module = open_clip.CustomTextCLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=PLACEHOLDER,
        text_cfg=config["text_cfg"],
        quick_gelu=quick,
        init_logit_bias=LOGIT_BIAS,
    )
    trunk = VisionTransformer(
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_classes=0,
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["heads"],
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        class_token=False,
        global_pool="map",
        norm_layer=partial(nn.LayerNorm, **vision.get("norm_kwargs", {})),
        act_layer=partial(QuickGELU if quick else nn.GELU, **vision.get("act_kwargs", {})),
    )
    network.visual = SiglipTower(trunk)
    return network


def shapes_of_tower(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes that can be read off the config of an image tower without building it."""
    width, patch = vision["width"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2
    return {
        "visual.trunk.patch_embed.proj.weight": (width, 3, patch, patch),
        "visual.trunk.pos_embed": (1, positions, width),
    }
