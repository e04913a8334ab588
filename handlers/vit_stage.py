"""TorchServe's way into stage vit. Rows in, one answer a row out; everything else is in the package beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgn.settings import load_settings
from pgn.stages.rows import Row
from pgn.stages.vit_stage import VitStage
from pgn.stages.worker import choose_device, end_with_parent, log_to_stderr, share_cores


class VitHandler:
    """The one class of this file: TorchServe makes it, and calls `initialize` once and `handle` for each batch."""

    def initialize(self, context: Any) -> None:
        """Load the stage for the model store that PGN_STORE names."""
        log_to_stderr()
        end_with_parent()
        share_cores()
        self.stage = VitStage.load(load_settings(), choose_device(context.system_properties.get("gpu_id")))

    def handle(self, data: Sequence[Row], context: Any) -> list[bytes]:  # noqa: ARG002
        """Answer a batch."""
        return self.stage.answer(data)
