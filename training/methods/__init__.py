"""What can be trained around the frozen backbone, one file each, behind one small interface."""

from __future__ import annotations

from training.methods.iip import InputIndependentPrompts
from training.methods.interface import Method
from training.methods.pgn import PromptGeneration

METHODS: dict[str, Method] = {"pgn": PromptGeneration(), "iip": InputIndependentPrompts()}
