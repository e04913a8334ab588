"""How the learning rates rise and fall, as a share of their peaks."""

from __future__ import annotations

import math

from training.config import TrainConfig

PAPER_FLOOR = 0.01  # the authors' code ends at a hundredth of the peak; the paper's text says zero


def rate_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Share of the peak rate at a step of the run, counted from 0, by the config's schedule."""
    if config.schedule == "paper":
        return paper(step // steps_per_epoch, config.recipe.epochs, config.warmup)
    return cosine(step, steps_per_epoch * config.recipe.epochs, config.warmup)


def cosine(step: int, total: int, warmup: float) -> float:
    """A linear rise over the share `warmup` of all steps, then half a cosine towards zero; anew at each step."""
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    return _half_cosine(step - rise, total - rise)


def paper(epoch: int, epochs: int, warmup: float) -> float:
    """The authors' schedule: one rate for a whole epoch, counted from 0.

    A linear rise over the share `warmup` of all epochs, the first two of which have the same rate; then half a cosine
    down to `PAPER_FLOOR`. Source: Loedeman et al., BMVC 2024, released code.
    """
    rise = round(warmup * epochs)
    if epoch <= rise and rise:
        return max(epoch, 1) / rise
    return PAPER_FLOOR + (1 - PAPER_FLOOR) * _half_cosine(epoch - rise, epochs - rise)


def _half_cosine(done: int, length: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * done / max(1, length)))
