"""transformers' SiglipModel: its names and its config, as open_clip's and timm's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clipguard.checkpoint.configs import ConfigFile, Preprocess, model_of, require_count
from clipguard.checkpoint.hugging_face import (
    OPEN_CLIP_BLOCK,
    Block,
    Format,
    one_activation,
    preprocessing,
    renamed,
    section,
    tower_of,
)
from clipguard.errors import UsageError

TIMM_BLOCK = Block(
    {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    fused="attn.qkv.",
)
POSITIONS = "visual.trunk.pos_embed"
POOL = "visual.trunk.attn_pool."
HEAD = "vision_model.head."
SINGLES = {
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "vision_model.embeddings.position_embedding.weight": POSITIONS,
    f"{HEAD}probe": f"{POOL}latent",
    **{
        f"{old}.{kind}": f"{new}.{kind}"
        for kind in ("weight", "bias")
        for old, new in (
            ("text_model.final_layer_norm", "text.ln_final"),
            ("text_model.head", "text.text_projection"),
            ("vision_model.embeddings.patch_embedding", "visual.trunk.patch_embed.proj"),
            ("vision_model.post_layernorm", "visual.trunk.norm"),
            (f"{HEAD}attention.out_proj", f"{POOL}proj"),
            (f"{HEAD}layernorm", f"{POOL}norm"),
            (f"{HEAD}mlp.fc1", f"{POOL}mlp.fc1"),
            (f"{HEAD}mlp.fc2", f"{POOL}mlp.fc2"),
        )
    },
}
LAYERS = {
    "text_model.encoder.layers.": ("text.transformer.resblocks.", OPEN_CLIP_BLOCK),
    "vision_model.encoder.layers.": ("visual.trunk.blocks.", TIMM_BLOCK),
}
SHARED = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = {**SHARED, "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
VISION = {
    **SHARED,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "vision_use_head": True,
}
"""What transformers assumes where a config says nothing."""
USUAL = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash")


def open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a SiglipModel under the names of open_clip's, and in their shapes.

    Raises:
        RefusedError: two tensors would get one name (CG107).
    """
    found = renamed(state, SINGLES, LAYERS)
    if POSITIONS in found and found[POSITIONS].ndim == 2:
        found[POSITIONS] = found[POSITIONS][None]
    for kind in ("weight", "bias"):
        key = f"{HEAD}attention.in_proj_{kind}"
        if key in found and found[key].ndim and found[key].shape[0] % 3 == 0:
            whole = found.pop(key)
            width = whole.shape[0] // 3
            found |= {f"{POOL}q.{kind}": whole[:width], f"{POOL}kv.{kind}": whole[width:]}
    return found


def read_config(raw: Mapping[str, Any], folder: Path) -> ConfigFile:
    """The config of a SiglipModel as open_clip's.

    Args:
        raw: its config.json.
        folder: where that lies, perhaps beside a file on preprocessing.

    Raises:
        UsageError: values out of bounds, or a network that open_clip and timm do not have.
    """
    text, vision = section(raw, "text", TEXT), section(raw, "vision", VISION)
    if vision["num_channels"] != 3 or vision["vision_use_head"] is not True:
        raise UsageError("vision_config: expected num_channels 3 and vision_use_head true")
    wide = vision["hidden_size"]
    if (text["projection_size"] or text["hidden_size"]) != wide:
        raise UsageError("text_config.projection_size: expected the hidden_size of vision_config")
    for tower, values in (("text", text), ("vision", vision)):
        require_count(values["num_attention_heads"], f"{tower}_config.num_attention_heads")
    model = model_of(
        {
            "embed_dim": wide,
            "custom_text": True,
            "vision_cfg": {
                **tower_of(vision, "vision"),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "heads": vision["num_attention_heads"],
            },
            "text_cfg": {
                **tower_of(text, "text"),
                "context_length": text["max_position_embeddings"],
                "vocab_size": text["vocab_size"],
                "heads": text["num_attention_heads"],
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
            },
            **one_activation(text, vision),
        }
    )
    steps, notes = preprocessing(folder, USUAL, model["vision_cfg"]["image_size"])
    return ConfigFile(model, steps, notes, siglip=True)


FORMAT = Format(
    name="SiglipModel",
    model_type="siglip",
    mark="vision_model.head.probe",
    open_clip_names=open_clip_names,
    read_config=read_config,
)
