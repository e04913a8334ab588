"""Turn a training checkpoint into a backbone folder, and read such a folder back.

Example:
    python -m training.backbones.export --checkpoint run/checkpoint.pt --out model_store/backbones/pgn-vit-128
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save

from training.backbones.distil import load_checkpoint
from training.backbones.files import sha256_of, write_text_whole, write_whole
from training.backbones.student import Architecture

WEIGHTS = "model.safetensors"
DESCRIPTION = "backbone.json"


def describe(name: str, architecture: Architecture, weights_sha256: str) -> dict[str, Any]:
    """Return the content of `backbone.json`."""
    return {
        "schema": 1,
        "name": name,
        "library": "open_clip",
        "architecture": asdict(architecture),
        "activation": "gelu",
        "preprocess": {
            "size": architecture.image_size,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "weights_sha256": weights_sha256,
    }


def export(checkpoint: Path, out: Path) -> None:
    """Write the checkpoint's student as float16 weights and a description; the folder's name is the backbone's.

    The description comes last: a folder that has one is complete.
    """
    state = load_checkpoint(checkpoint)
    weights = {name: tensor.half().contiguous() for name, tensor in state["student"].items()}
    write_whole(out / WEIGHTS, lambda draft: draft.write_bytes(save(weights, metadata={"format": "pt"})))
    facts = describe(out.resolve().name, Architecture(**state["architecture"]), sha256_of(out / WEIGHTS))
    write_text_whole(out / DESCRIPTION, json.dumps(facts, indent=2) + "\n")


def load_export(folder: Path) -> VisionTransformer:
    """Return the frozen float32 backbone of a folder.

    Raises:
        ValueError: the weights are not those that the description names.
    """
    facts = json.loads((folder / DESCRIPTION).read_text())
    found = sha256_of(folder / WEIGHTS)
    if found != facts["weights_sha256"]:
        raise ValueError(f"{folder / WEIGHTS} has SHA-256 {found}, {DESCRIPTION} says {facts['weights_sha256']}")
    model = VisionTransformer(**facts["architecture"])
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()})
    return model.eval().requires_grad_(False)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Export a checkpoint as a backbone folder.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of training.backbones.distil")
    parser.add_argument("--out", type=Path, required=True, help="folder; its name becomes the backbone's name")
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
