"""A LoRA adapter of peft, merged into the weights that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clipguard.checkpoint.names import DOWN, UP
from clipguard.errors import RefusedError, UsageError
from clipguard.text_safety import safe_text

CONFIG = "adapter_config.json"
ROOT = "base_model.model."
CHANGES = (
    *("alora_invocation_tokens", "alpha_pattern", "arrow_config", "fan_in_fan_out"),
    *("exclude_modules", "layer_replication", "layers_pattern", "layers_to_transform"),
    *("lora_bias", "modules_to_save", "monteclora_config", "rank_pattern"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora"),
    "velora_config",
)
"""Settings with which an adapter is more than W + B A: none is supported."""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
"""First values of A and B that leave W as it was."""
MAX_NUMBER = 10**6


def scale_of(config: Mapping[str, Any]) -> tuple[float, int]:
    """By how much an adapter is weighted, and its rank.

    Args:
        config: its `adapter_config.json`.

    Raises:
        UsageError: another kind of adapter, or values that make no sense.
    """
    rank, alpha = config.get("r"), config.get("lora_alpha")
    odd = [key for key in CHANGES if config.get(key)]
    if config.get("peft_type") != "LORA":
        odd.append("peft_type")
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        odd.append("init_lora_weights")
    if odd:
        raise UsageError(
            f"{CONFIG}: clipguard cannot merge an adapter with {', '.join(odd)} as it is; merge "
            "it with peft (merge_and_unload) and save the whole model"
        )
    if type(rank) is not int or not 1 <= rank <= MAX_NUMBER:
        raise UsageError(f"{CONFIG}: r: expected a whole number, got {safe_text(rank)}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < MAX_NUMBER:
        raise UsageError(f"{CONFIG}: lora_alpha: expected a number, got {safe_text(alpha)}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), rank


def _is_chosen(layer: str, chosen: object) -> bool:
    """Whether peft changes this layer, by the names or ends of names in `target_modules`."""
    if chosen is None:  # the library's own choice for the kind of model
        return True
    names = chosen if isinstance(chosen, list) else []
    return any(isinstance(name, str) and f".{layer}".endswith(f".{name}") for name in names)


def merged(
    base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """W + s B A for every layer that the adapter changes; all tensors under the base's names.

    Args:
        base: the weights that it was trained on, under the names of the library that peft knew.
        adapter: its tensors, under the names that peft gave them.
        config: its `adapter_config.json`.

    Raises:
        UsageError: a tensor that is no part of a LoRA, or that fits no layer of the base.
        RefusedError: weights that are not finite once merged (CG109).
    """
    scale, rank = scale_of(config)
    found = dict(base)
    names = {key.removeprefix(ROOT): key for key in adapter}
    for name, key in names.items():
        if name.endswith(UP) and f"{name.removesuffix(UP)}{DOWN}" in names:
            continue
        layer = name.removesuffix(DOWN)
        up, target = names.get(f"{layer}{UP}"), f"{layer}.weight"
        if layer == name or up is None or target not in found:
            raise UsageError(
                f"the adapter's tensor {safe_text(key)} belongs to no layer of the base; give the "
                "model that it was trained on with --lora-base"
            )
        if not _is_chosen(layer, config.get("target_modules")):
            raise UsageError(
                f"{CONFIG}: target_modules does not choose {safe_text(layer)}, which the adapter "
                "changes; another reader would leave it as it is"
            )
        a, b, weight = adapter[key], adapter[up], found[target]
        fits = a.ndim == b.ndim == 2 and b.shape[1] == a.shape[0] == rank
        if not fits or weight.shape != (b.shape[0], a.shape[1]):
            raise UsageError(
                f"the adapter's tensor {safe_text(key)} does not fit {safe_text(target)} of the "
                f"base at rank {rank}; give the model that it was trained on with --lora-base"
            )
        found[target] = weight + scale * (b @ a)
        if not found[target].isfinite().all():
            raise RefusedError(f"CG109 merged, tensor {safe_text(target)} is not finite in float32")
    return found
