"""What every family of perturbations added to the whole image does alike."""

from __future__ import annotations

from torch import Tensor

from clipguard.search.roles import Trigger


def added(images: Tensor, deltas: Tensor) -> Tensor:
    """Images with P perturbations, each put on all of them.

    Args:
        images: (B, 3, S, S) in [0, 1].
        deltas: (P, 3, S, S).

    Returns:
        (P, B, 3, S, S) in [0, 1], differentiable in both.
    """
    return (images + deltas[:, None]).clamp(0, 1)


def added_trigger(family: str, delta: Tensor) -> Trigger:
    """The trigger that adds one perturbation.

    Args:
        family: what the record calls it.
        delta: (3, S, S); the trigger is differentiable in it.
    """
    return Trigger(
        family=family,
        apply=lambda images: (images + delta).clamp(0, 1),
        size=delta.detach().abs().max().item() * 255,
        unit="L-inf, in 1/255",
        tensors={"delta": delta.detach()},
    )
