"""CLIP, the production backbone, goes the whole way: class texts, training, bundle, archives, both stages, REST.

The model is open_clip's `ViT-B-32-quickgelu` with seeded random weights: every shape, activation and name is the real
one, only what it knows is not.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from pgn.backbone_spec import SPEC_FILE, WEIGHTS_FILE
from pgn.bundle import Bundle, read_bundle
from pgn.client import Client
from pgn.errors import BackboneInvalid, UsageError
from pgn.images import read_square
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.store.local import LocalStore
from tests.servers import make_settings
from tests.toys import make_images
from training.backbones.clip import class_texts, fetch_clip, save_clip
from training.config import plan
from training.loop import train

MODEL = "ViT-B-32-quickgelu"
CLASSES = ("barn owl", "red fox", "tree frog")
TEMPLATE = "a photo of a {}, an animal"


@dataclass(frozen=True)
class Trained:
    """A store with random CLIP as its backbone, and a PGN trained on it for a few steps."""

    store: LocalStore
    backbone: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    """The whole CLIP model, text tower included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model(MODEL).eval()


@pytest.fixture(scope="module")
def trained(clip: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("clip")
    for number, name in enumerate(CLASSES):
        (folder / "animals" / name).mkdir(parents=True)
        for count, image in enumerate(make_images(6, 64, seed=number)):
            (folder / "animals" / name / f"{count}.png").write_bytes(image)
    backbone = folder / "store" / "backbones" / "clip"
    save_clip(clip, MODEL, "clip-random", backbone)
    config = plan(
        [f"folder:{folder / 'animals'}"],
        folder / "run",
        backbone=backbone,
        cache=folder / "cache",
        head="text",
        template=TEMPLATE,
        num_prompts=7,
        library_size=16,
        epochs=1,
        batch_size=6,
    )
    path = train(config)
    store = LocalStore(folder / "store")
    store.publish(path)
    return Trained(store, backbone, read_bundle(path))


@pytest.fixture(scope="module")
def url(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`pgn serve` over that store."""
    settings = make_settings(trained.store.root, tmp_path_factory.mktemp("serve"))
    options = ["--store", settings.store, "--torchserve-config", settings.torchserve_config, "--port", "0"]
    pgn = [Path(sys.executable).with_name("pgn"), "serve", *options]
    with subprocess.Popen(pgn, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split("listening on ")[1].split()[0]
        finally:
            process.send_signal(signal.SIGTERM)


def test_the_folder_is_the_vision_tower(clip: torch.nn.Module, trained: Trained) -> None:
    """Without prompts the backbone's features are open_clip's own, to the last bits."""
    backbone = load_backbone(trained.backbone)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), clip.encode_image(images), rtol=0, atol=1e-5)


def test_the_head_is_the_class_texts(clip: torch.nn.Module, trained: Trained) -> None:
    """The bundle carries CLIP's embeddings of the filled template, and its logit scale."""
    tokens = open_clip.get_tokenizer(MODEL)([TEMPLATE.format(name) for name in CLASSES])
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(clip.encode_text(tokens), dim=-1)
    torch.testing.assert_close(torch.from_numpy(trained.bundle.tensors["head.weight"]), wanted)
    head = trained.bundle.manifest.head
    assert head.kind == "text"
    assert math.isclose(head.logit_scale, float(clip.logit_scale.detach().exp()), rel_tol=1e-6)
    assert trained.bundle.manifest.template == TEMPLATE


def test_answers_over_rest_are_those_in_process(trained: Trained, url: str) -> None:
    """Archives, two stages, messages and HTTP change nothing: probabilities to 1e-5 in float32."""
    predictor = Predictor(load_backbone(trained.backbone), trained.bundle)
    images = make_images(4, 300, seed=9)
    pixels = torch.stack([torch.tensor(read_square(image, 224, interpolation="bicubic")) for image in images])
    with Client(url) as client:
        for image, wanted in zip(images, predictor.probabilities(pixels), strict=True):
            given = {each.label: each.probability for each in client.predict(image, "animals").predictions}
            assert [given[name] for name in CLASSES] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_weights_without_their_activation_are_refused(trained: Trained, tmp_path: Path) -> None:
    """Under the wrong activation CLIP answers wrongly without any error, so nobody may leave it out."""
    text = (trained.backbone / SPEC_FILE).read_text()
    (tmp_path / SPEC_FILE).write_text(text.replace('  "activation": "quick_gelu",\n', ""))
    (tmp_path / WEIGHTS_FILE).symlink_to(trained.backbone / WEIGHTS_FILE)
    with pytest.raises(BackboneInvalid, match="does not declare the weights' activation"):
        load_backbone(tmp_path)


def test_a_weights_file_has_to_come_with_its_activation(tmp_path: Path) -> None:
    """`pgn backbone fetch` does not guess what a file was trained with."""
    weights = tmp_path / "weights.pt"
    weights.touch()
    with pytest.raises(UsageError, match="does not say its activation"):
        fetch_clip(MODEL, str(weights), tmp_path / "out")


def test_openais_weights_need_the_quickgelu_model(tmp_path: Path) -> None:
    """open_clip's plain `ViT-B-32` is a GELU model: under it OpenAI's weights would load and answer wrongly."""
    with pytest.raises(UsageError, match="ViT-B-32-quickgelu"):
        fetch_clip("ViT-B-32", "openai", tmp_path / "out")


def test_a_folder_without_text_tower_cannot_name_classes(trained: Trained, tmp_path: Path) -> None:
    """Servers get the vision tower alone; who trains on it by text hears what is missing."""
    (tmp_path / SPEC_FILE).write_text((trained.backbone / SPEC_FILE).read_text())
    with pytest.raises(BackboneInvalid, match=r"text\.safetensors"):
        class_texts(tmp_path, CLASSES, TEMPLATE)


def test_the_frozen_tower_is_still_the_same(clip: torch.nn.Module, trained: Trained) -> None:
    """Training read the backbone and wrote nothing to it."""
    stored = load_file(trained.backbone / WEIGHTS_FILE)
    assert all(torch.equal(stored[name], tensor) for name, tensor in clip.visual.state_dict().items())
