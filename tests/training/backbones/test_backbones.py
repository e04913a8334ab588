"""The embedded backbone's kitchen on a toy scale, and the limits of the backbone that is shipped.

Run alone: pytest tests/training/backbones
"""

import itertools
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from open_clip.transformer import VisionTransformer
from PIL import Image
from safetensors.torch import load_file

from training.backbones.augment import Augmentation, mirror_grid, student_view
from training.backbones.distil import DistilConfig, Distillation, batch_rows, distil, load_checkpoint, open_pool
from training.backbones.export import DESCRIPTION, WEIGHTS, export, load_export
from training.backbones.files import sha256_of, write_whole
from training.backbones.heldout import knn_accuracy, read_splits
from training.backbones.muon import orthogonalise
from training.backbones.student import Architecture, build_student, condition_number, encode_kept
from training.backbones.teacher import ARCHITECTURE, cache_tokens, write_scale
from training.backbones.tiny_imagenet import pack, training_files

TOY = Architecture(width=64, layers=1, heads=1, output_dim=64)
SHIPPED = Path(__file__).parents[3] / "model_store" / "backbones" / "pgn-vit-128"
LIMIT_BYTES = 16 * 2**20
LIMIT_CONDITION = 100.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 generated images in Tiny-ImageNet's layout, packed and seen by a random teacher of one layer."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for name, index in itertools.product(("n1", "n2"), range(32)):
        file = folder / "train" / name / "images" / f"{name}_{index:02}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    pack(training_files(folder), folder / "images.npy")
    torch.manual_seed(0)
    teacher = timm.create_model(ARCHITECTURE, depth=1, img_size=160, num_classes=0).eval()
    cache_tokens(teacher, np.load(folder / "images.npy"), folder, minutes=1)
    write_scale(folder)
    return folder


@pytest.fixture
def config(pool: Path, tmp_path: Path) -> DistilConfig:
    """A run of two steps by a clock that ticks once a minute; it saves after each."""
    return DistilConfig(
        images=pool / "images.npy",
        pool=pool,
        out=tmp_path / "run",
        minutes=2,
        architecture=TOY,
        batch=32,
        checkpoint_minutes=1,
    )


def minutes(until: float = float("inf")) -> Callable[[], float]:
    """Return a clock that moves a minute a call and, like a killed process, ends everything at call `until`."""
    calls = itertools.count()

    def clock() -> float:
        call = next(calls)
        if call >= until:
            raise KeyboardInterrupt
        return 60.0 * call

    return clock


def test_files_of_a_pool_take_classes_in_turn(pool: Path) -> None:
    """A cache that stops early still covers every class alike."""
    assert [file.parent.parent.name for file in training_files(pool)[:4]] == ["n1", "n2", "n1", "n2"]


def test_a_folder_without_training_images_is_refused(tmp_path: Path) -> None:
    """The message names the folder that was given and the layout that was expected."""
    with pytest.raises(FileNotFoundError, match=r"train/<class>/images"):
        training_files(tmp_path)


def test_a_complete_cache_is_not_computed_again(pool: Path) -> None:
    """A second call goes on from the count on disk, here the end, and never asks the teacher."""
    assert cache_tokens(torch.nn.Module(), np.load(pool / "images.npy"), pool, minutes=1) == 64


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A checkpoint is replaced as a whole or not at all."""
    file = tmp_path / "checkpoint.pt"
    file.write_text("old")

    def write(draft: Path) -> None:
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, write)
    assert file.read_text() == "old"


def test_a_killed_run_resumes_to_the_same_weights(config: DistilConfig) -> None:
    """Nothing but the checkpoint is needed to end where the undisturbed run ends."""
    whole = load_checkpoint(distil(config, minutes()))
    broken = replace(config, out=config.out.with_name("broken"))
    with pytest.raises(KeyboardInterrupt):
        distil(broken, minutes(until=2))
    assert load_checkpoint(broken.out / "checkpoint.pt")["step_number"] == 1
    resumed = load_checkpoint(distil(broken, minutes()))
    assert resumed["step_number"] == whole["step_number"] == 2
    for name, tensor in whole["student"].items():
        torch.testing.assert_close(resumed["student"][name], tensor, atol=1e-6, rtol=0)  # threads sum in any order


def test_a_step_moves_every_tensor(config: DistilConfig, pool: Path) -> None:
    """No weight of the student is left out of both optimisers, but for the output projection: it stays the identity."""
    run = Distillation(replace(config, warmup_steps=1))
    before = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    run.step(open_pool(config.images, pool))
    run.step(open_pool(config.images, pool))
    assert [name for name, tensor in run.student.state_dict().items() if torch.equal(tensor, before[name])] == ["proj"]
    assert torch.equal(run.student.proj, torch.eye(64))


def test_an_epoch_shows_every_image_once() -> None:
    """Two batches of 32 out of 64 share no row, and the next epoch is another order."""
    first, second, third = (batch_rows(64, 32, seed=0, step=step) for step in range(3))
    assert sorted([*first, *second]) == list(range(64))
    assert not np.array_equal(first, third)


def test_all_patches_kept_equals_open_clip() -> None:
    """The pass over kept tokens is open_clip's own forward pass when nothing is dropped."""
    student = build_student(TOY, seed=0).eval()
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    cls, _ = encode_kept(student, images, torch.arange(64).expand(2, 64))
    torch.testing.assert_close(cls @ student.proj, student(images), atol=1e-5, rtol=0)


def test_a_mirrored_view_meets_mirrored_targets() -> None:
    """The patch seen top left in a mirrored view is the one top right in the image."""
    images = torch.zeros(64, 3, 64, 64, dtype=torch.uint8)
    images[..., :8, -8:] = 255
    plain = Augmentation(coarse=0.0, grey=0.0)
    views, mirrored = student_view(images, 128, plain, torch.Generator().manual_seed(0))
    assert 0 < mirrored.sum() < 64
    assert torch.equal(views[:, 0, 8, 8] > 0, mirrored)
    sources = mirror_grid(torch.zeros(64, 1, dtype=torch.int64), mirrored, 8)[:, 0]
    assert torch.equal(sources, torch.where(mirrored, 7, 0))


def test_orthogonalised_matrices_have_even_singular_values() -> None:
    """Five Newton-Schulz steps bring a random matrix's singular values near 1."""
    matrices = torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.svdvals(orthogonalise(matrices))
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3


def test_ties_of_neighbours_go_to_the_nearer_class() -> None:
    """With one vote each, the voter at the smaller angle decides."""
    gallery, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert knn_accuracy(gallery, labels, torch.tensor([[0.4, 0.6]]), torch.tensor([1]), k=2) == 1.0


def test_a_set_without_the_asked_split_is_refused(tmp_path: Path) -> None:
    """The message names the missing split, not an empty tensor somewhere later."""
    tar = tmp_path / "set.tar"
    with tarfile.open(tar, "w"):
        pass
    with pytest.raises(ValueError, match="no images of val"):
        read_splits(tar, ("val",), 128)


def test_an_export_loads_into_open_clip_strictly(config: DistilConfig) -> None:
    """Keys and shapes are exactly those of open_clip's VisionTransformer."""
    checkpoint, folder = distil(config, minutes()), config.out.with_name("toy")
    export(checkpoint, folder)
    weights = load_file(folder / WEIGHTS)
    model = VisionTransformer(**json.loads((folder / DESCRIPTION).read_text())["architecture"])
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_changed_weights_are_refused(config: DistilConfig) -> None:
    """One flipped byte no longer matches the digest in the description."""
    folder = config.out.with_name("toy")
    export(distil(config, minutes()), folder)
    changed = bytearray((folder / WEIGHTS).read_bytes())
    changed[-1] ^= 1
    (folder / WEIGHTS).write_bytes(changed)
    with pytest.raises(ValueError, match="SHA-256"):
        load_export(folder)


def test_the_shipped_backbone_keeps_its_limits() -> None:
    """What lies in the model store is what was described: digest, size, sizes and an invertible patch projection."""
    facts = json.loads((SHIPPED / DESCRIPTION).read_text())
    assert sha256_of(SHIPPED / WEIGHTS) == facts["weights_sha256"]
    assert (SHIPPED / WEIGHTS).stat().st_size <= LIMIT_BYTES
    assert Architecture(**facts["architecture"]) == Architecture()
    assert condition_number(load_export(SHIPPED)) <= LIMIT_CONDITION
