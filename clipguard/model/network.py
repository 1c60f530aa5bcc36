"""The open_clip network of a checkpoint, with its weights in memory once where that can be."""

from __future__ import annotations

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from clipguard.checkpoint.architectures import network_of
from clipguard.checkpoint.load import Checkpoint


def network_with(checkpoint: Checkpoint) -> nn.Module:
    """The network of `checkpoint`, on the CPU; the global random state is left alone."""
    return _with_these_weights(checkpoint) or with_a_copy(checkpoint)


def _with_these_weights(checkpoint: Checkpoint) -> nn.Module | None:
    """The network around the checkpoint's tensors; None if it holds numbers that no file has."""
    with torch.device("meta"):
        network = network_of(checkpoint.architecture)
    network.load_state_dict(checkpoint.state, strict=True, assign=True)
    for part in network.modules():
        if any(isinstance(value, Tensor) and value.is_meta for value in vars(part).values()):
            return None
        for name, buffer in part.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != "attn_mask" or type(part) not in (open_clip.CLIP, TextTransformer):
                return None
            part.register_buffer(name, _causal_mask(len(buffer)), persistent=False)
    return network


def with_a_copy(checkpoint: Checkpoint) -> nn.Module:
    """The network with random weights, into which those of the checkpoint are copied."""
    with torch.random.fork_rng(devices=[]):
        network = network_of(checkpoint.architecture)
    network.load_state_dict(checkpoint.state, strict=True)
    return network


def _causal_mask(length: int) -> Tensor:
    """(L, L) for a text tower in which no token sees a later one."""
    return torch.full((length, length), -torch.inf).triu_(1)
