"""Going on from bundles: what is carried over, exactly, and what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pgn.bundle import BackboneRef, GeneratorSpec, HeadSpec, Manifest, read_bundle, write_bundle
from pgn.errors import ArtefactError, BundleIncompatible, UsageError
from pgn.method.backbone import load_backbone
from pgn.method.generator import FixedPrompts, PromptGenerator, load_generator
from pgn.method.head import load_head
from tests.toys import make_bundle
from tests.training.test_result import FIELDS
from training.heads import LearnedHead, start_head
from training.loop import train
from training.methods import METHODS
from training.methods.prompted import PromptedAdapter
from training.methods.warm_start import start_encoder
from training.model import AdaptedClassifier, starts_of
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MakeSetting = Callable[..., Setting]


@pytest.fixture
def iip(tmp_path: Path, backbone_folder: Path) -> Path:
    """Four free prompts, and a linear head that knows the digits 3 and 8 and a class of its own."""
    rng = np.random.default_rng(0)
    manifest = Manifest(
        dataset="three-eight",
        classes=("8", "3", "none"),
        method="iip",
        generator=GeneratorSpec(encoder="none", num_prompts=4, library_size=0, embed_dim=32, input_size=32),
        head=HeadSpec(kind="linear", features=16),
        backbone=BackboneRef(name="toy", digest=load_backbone(backbone_folder).digest),
        created="2026-01-01T00:00:00Z",
    )
    shapes = {"generator.prompts": (4, 32), "head.weight": (3, 16), "head.bias": (3,)}
    return write_bundle(tmp_path, manifest, {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()})


@pytest.fixture
def pgn(tmp_path: Path, backbone_folder: Path) -> Path:
    """A PGN with a ResNet10 of width 4, K 4 and N 6: the shape that the tests' configs ask for."""
    return make_bundle(tmp_path, "shapes", load_backbone(backbone_folder).digest, seed=3)


def _generator(setting: Setting) -> torch.nn.Module:
    torch.manual_seed(0)
    adapter = METHODS[setting.config.method].start(setting)
    assert isinstance(adapter, PromptedAdapter)
    return adapter.generator.eval()


def _equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    theirs = right.state_dict()
    return all(torch.equal(t, theirs[name]) for name, t in left.state_dict().items() if "num_batches" not in name)


class TestFromInputIndependentPrompts:
    @pytest.mark.parametrize("library", ["latent", "none"])
    @pytest.mark.parametrize("projection", ["linear", "mlp"])
    def test_the_first_forward_is_theirs(
        self, library: str, projection: str, iip: Path, make_setting: MakeSetting
    ) -> None:
        """For every image: a PGN contains the input-independent prompts, and starts as them to 1e-5."""
        setting = make_setting(library=library, projection=projection, start_from=(iip,), library_size=9)
        wanted = torch.from_numpy(read_bundle(iip).tensors["generator.prompts"].copy()).expand(5, -1, -1)
        assert torch.allclose(_generator(setting)(INPUTS), wanted, atol=1e-5)

    def test_each_prompt_leans_on_a_token_of_its_own(self, iip: Path, make_setting: MakeSetting) -> None:
        """Not so much that the softmax is flat there and the encoder cannot learn."""
        generator = _generator(make_setting(start_from=(iip,)))
        assert isinstance(generator, PromptGenerator)
        share, token = generator.mixture(INPUTS).max(dim=2)
        assert (token == torch.arange(4)).all()
        assert torch.allclose(share, torch.tensor(0.7))

    def test_the_encoder_learns_from_there(self, iip: Path, make_setting: MakeSetting) -> None:
        """The last layer starts at zero, and has a gradient from the first step on."""
        setting = make_setting(start_from=(iip,))
        generator = _generator(setting)
        assert isinstance(generator, PromptGenerator)
        generator(INPUTS).square().sum().backward()
        assert generator.last_layer.weight.grad is not None
        assert (generator.last_layer.weight.grad != 0).any()

    def test_iip_goes_on_from_itself(self, iip: Path, make_setting: MakeSetting) -> None:
        """The same prompts, on new images."""
        generator = _generator(make_setting(method="iip", start_from=(iip,)))
        assert isinstance(generator, FixedPrompts)
        assert torch.equal(generator.prompts, torch.from_numpy(read_bundle(iip).tensors["generator.prompts"]))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_prompts": 5}, r"has 4 prompts, this run 5 \(--num-prompts 4\)"),
            ({"library_size": 4}, r"a library of 4 tokens is too small to start from 4 prompts \(--library-size 5\)"),
            ({"library": "rgb"}, r"the rgb library cannot hold the latent prompts"),
        ],
    )
    def test_what_cannot_hold_them_is_refused(
        self, changes: dict, message: str, iip: Path, make_setting: MakeSetting
    ) -> None:
        """With what to change."""
        with pytest.raises(UsageError, match=message):
            _generator(make_setting(start_from=(iip,), **changes))


class TestFromAPGN:
    def test_one_of_the_same_shape_is_taken_whole(self, pgn: Path, make_setting: MakeSetting) -> None:
        """BatchNorm's running statistics included."""
        assert _equal(_generator(make_setting(start_from=(pgn,))), load_generator(read_bundle(pgn)))

    def test_of_another_size_only_the_encoder_is(self, pgn: Path, make_setting: MakeSetting) -> None:
        """A union PGN lends its eyes to a PGN with other K and N; the rest starts as ever."""
        changes = {"num_prompts": 8, "library_size": 9}
        ours, theirs = _generator(make_setting(start_from=(pgn,), **changes)), load_generator(read_bundle(pgn))
        fresh = _generator(make_setting(**changes))
        assert isinstance(ours, PromptGenerator)
        assert isinstance(theirs, PromptGenerator)
        assert isinstance(fresh, PromptGenerator)
        assert _equal(ours.encoder, theirs.encoder)
        assert _equal(ours.library, fresh.library)
        assert _equal(ours.last_layer, fresh.last_layer)

    def test_a_mixture_is_not_taken_without_its_library(self, pgn: Path, make_setting: MakeSetting) -> None:
        """Its shares mean tokens that are not there: patches of pixels, here."""
        ours, theirs = _generator(make_setting(start_from=(pgn,), library="rgb")), load_generator(read_bundle(pgn))
        assert isinstance(ours, PromptGenerator)
        assert isinstance(theirs, PromptGenerator)
        assert _equal(ours.encoder, theirs.encoder)
        assert ours.last_layer.weight.shape == theirs.last_layer.weight.shape
        assert not _equal(ours.last_layer, theirs.last_layer)

    def test_a_later_bundle_goes_over_an_earlier(self, pgn: Path, iip: Path, make_setting: MakeSetting) -> None:
        """The encoder of a union PGN and the prompts of an IIP run: the best of both to start from."""
        generator, theirs = _generator(make_setting(start_from=(pgn, iip))), load_generator(read_bundle(pgn))
        assert isinstance(generator, PromptGenerator)
        assert isinstance(theirs, PromptGenerator)
        assert _equal(generator.encoder, theirs.encoder)
        wanted = torch.from_numpy(read_bundle(iip).tensors["generator.prompts"].copy()).expand(5, -1, -1)
        assert torch.allclose(generator(INPUTS), wanted, atol=1e-5)

    def test_nothing_that_fits_is_an_error(self, pgn: Path, make_setting: MakeSetting) -> None:
        """A start that carries nothing over would be silently none."""
        changes = {"encoder_width": 8, "library_size": 9}
        with pytest.raises(UsageError, match=r"nothing of shapes \w+ fits this run: its encoder is resnet10 \(width 4"):
            _generator(make_setting(start_from=(pgn,), **changes))

    def test_input_independent_prompts_cannot_start_from_one(self, pgn: Path, make_setting: MakeSetting) -> None:
        """Its prompts depend on the image."""
        with pytest.raises(UsageError, match=r"iip cannot start from \w+, a pgn bundle"):
            _generator(make_setting(method="iip", start_from=(pgn,)))


class TestFromAnEncoder:
    def test_another_shape_is_refused(self, tmp_path: Path, make_setting: MakeSetting) -> None:
        """One line that names the file."""
        save_file({"adapter.encoder.stem.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "weights.safetensors")
        generator = _generator(make_setting())
        assert isinstance(generator, PromptGenerator)
        with pytest.raises(ArtefactError, match="holds no such encoder"):
            start_encoder(generator, tmp_path)


class TestHead:
    def test_rows_of_known_classes_are_carried_over(self, iip: Path, make_setting: MakeSetting) -> None:
        """By name, wherever they stand; classes that are new start as the probe's."""
        setting = make_setting(start_from=(iip,))
        head, features = start_head(setting), setting.backbone(INPUTS)
        assert isinstance(head, LearnedHead)
        logits, carried, probe = head(features), load_head(read_bundle(iip))(features), setting.probe.head()(features)
        assert torch.allclose(logits[:, [8, 3]], carried[:, :2], atol=1e-4)
        new = [0, 1, 2, 4, 5, 6, 7, 9]
        assert torch.allclose(logits[:, new], probe[:, new], atol=1e-4)


class TestWords:
    """What the run says of it."""

    def _said(self, setting: Setting) -> list[str]:
        torch.manual_seed(0)
        return starts_of(AdaptedClassifier(METHODS[setting.config.method].start(setting), start_head(setting)), setting)

    def test_a_whole_pgn(self, pgn: Path, make_setting: MakeSetting) -> None:
        """All parts; its classes are others, so no row of the head."""
        expected = f"from {pgn}: encoder, library, projection; 0 of 10 rows of the head"
        assert self._said(make_setting(start_from=(pgn,))) == [expected]

    @pytest.mark.parametrize(
        ("changes", "parts"),
        [
            ({"num_prompts": 8}, "encoder, library; not the projection (another K)"),
            ({"library_size": 9}, "encoder; not the library (another N); not the projection (another N)"),
            (
                {"library": "rgb"},
                "encoder; not the library (another kind); not the projection (another kind of library)",
            ),
            ({"library": "none"}, "encoder; not the projection (another kind of library)"),
            ({"projection": "mlp"}, "encoder, library; not the projection (another kind)"),
            (
                {"encoder_width": 8},
                "library; not the encoder (another width); not the projection (what it stands between is another)",
            ),
        ],
    )
    def test_what_is_left_behind_has_a_reason(
        self, changes: dict, parts: str, pgn: Path, make_setting: MakeSetting
    ) -> None:
        """The more so where an encoder alone is not what was hoped for."""
        (line,) = self._said(make_setting(start_from=(pgn,), **changes))
        assert line == f"from {pgn}: {parts}; 0 of 10 rows of the head"

    def test_each_bundle_has_its_line(self, pgn: Path, iip: Path, make_setting: MakeSetting) -> None:
        """In the order in which they are taken; of the head, the classes that both know."""
        first, second = self._said(make_setting(start_from=(pgn, iip)))
        assert first.startswith(f"from {pgn}: encoder")
        assert second == f"from {iip}: its 4 prompts; 2 of 10 rows of the head"

    def test_a_head_that_stays_takes_no_rows(self, iip: Path, make_setting: MakeSetting) -> None:
        """So nothing is said of it."""
        (line,) = self._said(make_setting(start_from=(iip,), head="prototypes"))
        assert line == f"from {iip}: its 4 prompts"

    def test_the_run_says_it_once(self, iip: Path, make_setting: MakeSetting, capsys: pytest.CaptureFixture) -> None:
        """On standard error, before its first epoch."""
        config = make_setting(start_from=(iip,), epochs=1).config
        train(config)
        assert capsys.readouterr().err.splitlines()[1] == f"from {iip}: its 4 prompts; 2 of 10 rows of the head"
        train(config)
        assert "from" not in capsys.readouterr().err


class TestWhere:
    def test_the_folder_of_a_finished_run_stands_for_its_bundle(self, iip: Path, make_setting: MakeSetting) -> None:
        """What `pgn train` wrote can be named without its digest."""
        (iip.parent / "result.json").write_text(json.dumps({**FIELDS, "bundle": iip.name}))
        setting = make_setting(method="iip", start_from=(iip.parent,))
        assert torch.equal(_generator(setting).prompts, torch.from_numpy(read_bundle(iip).tensors["generator.prompts"]))

    @pytest.mark.parametrize("result", [None, FIELDS])
    def test_a_folder_without_a_bundle_is_refused(
        self, result: dict | None, tmp_path: Path, make_setting: MakeSetting
    ) -> None:
        """No run at all, or one of a method that makes none."""
        (tmp_path / "other").mkdir()
        if result is not None:
            (tmp_path / "other" / "result.json").write_text(json.dumps(result))
        with pytest.raises(UsageError, match="is no folder of a run with a bundle"):
            _generator(make_setting(start_from=(tmp_path / "other",)))

    def test_a_bundle_of_another_backbone_is_refused(self, tmp_path: Path, make_setting: MakeSetting) -> None:
        """Its prompts are tokens of another ViT."""
        foreign = make_bundle(tmp_path, "foreign", "f" * 64)
        with pytest.raises(BundleIncompatible):
            _generator(make_setting(start_from=(foreign,)))
