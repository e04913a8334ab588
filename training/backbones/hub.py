"""A library fetches pretrained weights: what fails is one line with what to do, and nobody else speaks beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from huggingface_hub import constants, get_session

from pgn.errors import UsageError, one_line

ANSWER_S: Final = 5.0


@contextmanager
def clear_hub_errors(what: str, *, from_hub: bool) -> Iterator[None]:
    """Around a call that loads weights; silent inside.

    A hub that does not answer within `ANSWER_S` is not asked, since its client would try each file of a model six
    times, for a minute in all; what it has given before is taken from its cache.

    Args:
        what: "timm could not load ...", the start of the message.
        from_hub: Whether the weights come from there, not from a file.

    Raises:
        UsageError: The weights cannot be had, or do not fit the model.
    """
    level, offline = logging.root.manager.disable, constants.HF_HUB_OFFLINE
    logging.disable(logging.CRITICAL)  # open_clip says by the root logger, and the hub's client by its own, what we say
    dead = from_hub and not offline and not _answers(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = offline or dead
    try:
        yield
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        if dead:
            raise UsageError(
                f"{what}: {constants.ENDPOINT} does not answer, and its cache does not hold them",
                hint="try again, or give a weights file as --pretrained",
            ) from error
        if "weights_only" in str(error):  # torch's words for a file that is none of its own, with advice of its own
            raise UsageError(
                f"{what}: that is no file of weights", hint="a .safetensors, or torch's state dict"
            ) from error
        raise UsageError(f"{what}: {one_line(error)}") from error
    finally:
        logging.disable(level)
        constants.HF_HUB_OFFLINE = offline


def _answers(hub: str) -> bool:
    try:
        get_session().head(hub, timeout=ANSWER_S)
    except Exception:  # those of whichever HTTP client the hub's library has in this version
        return False
    return True
