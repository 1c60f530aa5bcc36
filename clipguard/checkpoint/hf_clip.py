"""transformers' CLIPModel: its names and its config, as open_clip's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clipguard.checkpoint.configs import OPENAI, ConfigFile, model_of
from clipguard.checkpoint.hugging_face import (
    OPEN_CLIP_BLOCK,
    Format,
    one_activation,
    preprocessing,
    renamed,
    section,
    share,
    tower_of,
)
from clipguard.errors import UsageError

SINGLES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    **{
        f"{old}.{kind}": f"{new}.{kind}"
        for kind in ("weight", "bias")
        for old, new in (
            ("text_model.final_layer_norm", "ln_final"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
        )
    },
}
LAYERS = {
    "text_model.encoder.layers.": ("transformer.resblocks.", OPEN_CLIP_BLOCK),
    "vision_model.encoder.layers.": ("visual.transformer.resblocks.", OPEN_CLIP_BLOCK),
}
TURNED = ("visual.proj", "text_projection")
SHARED = {
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    **SHARED,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
VISION = {
    **SHARED,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
"""What transformers assumes where a config says nothing."""
END_OF_TEXT = 49407
OPEN_CLIP_HEAD = 64


def open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a CLIPModel under open_clip's names and in its shapes.

    Raises:
        RefusedError: two tensors would get one name (CG107).
    """
    found = renamed(state, SINGLES, LAYERS)
    turned = {k: found[k].T.contiguous() for k in TURNED if k in found and found[k].ndim == 2}
    return found | turned


def read_config(raw: Mapping[str, Any], folder: Path) -> ConfigFile:
    """The config of a CLIPModel as open_clip's.

    Args:
        raw: its config.json.
        folder: where that lies, perhaps beside a file on preprocessing.

    Raises:
        UsageError: values out of bounds, or a network that open_clip does not have.
    """
    text, vision = section(raw, "text", TEXT), section(raw, "vision", VISION)
    if vision["num_channels"] != 3:
        raise UsageError("vision_config.num_channels: expected 3, for RGB")
    head = share(vision, "vision")
    towers = {
        "vision_cfg": {
            **tower_of(vision, "vision"),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **({} if head == OPEN_CLIP_HEAD else {"head_width": head}),
        },
        "text_cfg": {
            **tower_of(text, "text"),
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **_reading(text["eos_token_id"]),
        },
    }
    named = one_activation(text, vision)
    model = model_of({"embed_dim": raw.get("projection_dim", 512), **towers, **named})
    steps, notes = preprocessing(folder, OPENAI, model["vision_cfg"]["image_size"])
    return ConfigFile(model, steps, notes)


def _reading(end: object) -> dict[str, Any]:
    """Where the text tower is read: 2 is what old configs said for the last token of the list."""
    if end in (2, END_OF_TEXT):
        return {}
    if type(end) is not int or end < 0:
        raise UsageError("text_config.eos_token_id: expected one whole number")
    return {"pool_type": "eos", "eos_id": end}


FORMAT = Format(
    name="CLIPModel",
    model_type="clip",
    mark="vision_model.pre_layrnorm.weight",  # the slip of the pen is transformers'
    open_clip_names=open_clip_names,
    read_config=read_config,
)
