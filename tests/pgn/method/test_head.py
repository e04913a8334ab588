"""Three ways from features to class scores, all of them one matrix."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F

from pgn.bundle import read_bundle
from pgn.errors import DataInvalid, UsageError
from pgn.method.head import CLIP_LOGIT_SCALE, embed_class_texts, linear_head, load_head, prototype_head, text_head
from tests.toys import make_bundle

FEATURES = torch.tensor([[3.0, 4.0], [0.0, 2.0]])


class TestLinear:
    def test_it_is_a_matrix_and_a_bias(self):
        """W z + b, nothing normalised."""
        head = linear_head(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([0.0, 1.0, -1.0]))
        assert head(FEATURES).tolist() == [[3, 9, 6], [0, 5, 1]]

    def test_both_learn(self):
        """A trainer hands the head's parameters to its optimiser."""
        head = linear_head(torch.zeros(3, 2), torch.zeros(3))
        head(FEATURES).sum().backward()
        assert head.weight.grad is not None
        assert head.bias.grad is not None


class TestText:
    def test_logits_are_a_hundred_cosines(self):
        """CLIP's scale; lengths do not count on either side."""
        head = text_head(torch.tensor([[0.6, 0.8], [5.0, 0.0]]))
        assert CLIP_LOGIT_SCALE == 100.0
        assert torch.allclose(head(FEATURES), torch.tensor([[100.0, 60.0], [80.0, 0.0]]), atol=1e-4)
        assert torch.allclose(head(7 * FEATURES), head(FEATURES), atol=1e-4)

    def test_the_scale_is_the_specs(self):
        """A bundle carries it, as training may have used another."""
        embeddings = torch.eye(2)
        assert torch.allclose(text_head(embeddings, 10.0)(FEATURES), text_head(embeddings)(FEATURES) / 10, atol=1e-5)


class TestPrototypes:
    def test_a_prototype_is_the_mean_direction_of_its_class(self):
        """Each image counts alike, however long its features."""
        features = torch.tensor([[10.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        head = prototype_head(features, torch.tensor([0, 0, 1]), 2)
        assert torch.allclose(head.weight, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))

    def test_an_image_is_nearest_to_its_own_class(self):
        """Well separated classes are told apart without any training."""
        torch.manual_seed(0)
        labels = torch.arange(30) % 3
        features = 5 * torch.eye(8)[labels] + 0.3 * torch.randn(30, 8)
        assert torch.equal(prototype_head(features, labels, 3)(features).argmax(-1), labels)

    @pytest.mark.parametrize(("labels", "missing"), [([0, 0], 1), ([1, 1], 0), ([0, 1], 2)])
    def test_a_class_without_images_is_refused_by_number(self, labels, missing):
        """Its direction would be zero by zero."""
        with pytest.raises(DataInvalid, match=f"class number {missing} has no training image"):
            prototype_head(FEATURES, torch.tensor(labels), missing + 1 if missing else 2)


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    """A whole CLIP, random and small, with the real vocabulary."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    text = {"vocab_size": 49408, "context_length": 77, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(16, vision, text, quick_gelu=True).eval()


@pytest.fixture(scope="module")
def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's own, shipped with the library."""
    return open_clip.SimpleTokenizer()


class TestClassTexts:
    def test_each_class_gets_a_direction(self, clip, tokenizer):
        """Unit length, one row a class, no gradient."""
        embeddings = embed_class_texts(clip, tokenizer, ["cat", "dog", "fire engine"], "a photo of a {}")
        assert embeddings.shape == (3, 16)
        assert torch.allclose(embeddings.norm(dim=-1), torch.ones(3), atol=1e-6)
        assert not embeddings.requires_grad

    def test_the_name_fills_the_template(self, clip, tokenizer):
        """The sentence is what a person would write by hand."""
        with torch.no_grad():
            by_hand = F.normalize(clip.encode_text(tokenizer(["a photo of a cat."])), dim=-1)
        assert torch.equal(embed_class_texts(clip, tokenizer, ["cat"], "a photo of a {}."), by_hand)

    @pytest.mark.parametrize("name", ["{}", "{0}", "a {b} c", "100 %"])
    def test_a_class_name_may_hold_anything(self, clip, tokenizer, name):
        """Names come from users' folders."""
        with torch.no_grad():
            by_hand = F.normalize(clip.encode_text(tokenizer([f"a {name}"])), dim=-1)
        assert torch.equal(embed_class_texts(clip, tokenizer, [name], "a {}"), by_hand)

    def test_other_braces_of_a_template_are_text(self, clip, tokenizer):
        """Only {} is a place for the name."""
        assert embed_class_texts(clip, tokenizer, ["cat"], "{style} of a {}").shape == (1, 16)

    @pytest.mark.parametrize("template", ["a photo", "", "a {} of a {}"])
    def test_a_template_without_exactly_one_place_is_refused(self, clip, tokenizer, template):
        """All classes would get the same text, and the head would answer at random."""
        with pytest.raises(UsageError, match=r"exactly one \{\}") as refusal:
            embed_class_texts(clip, tokenizer, ["cat"], template)
        assert "a photo of a {}" in refusal.value.hint

    def test_texts_classify_as_clip_does(self, clip, tokenizer):
        """Head and library give the same probabilities."""
        classes = ["cat", "dog", "fire engine"]
        images = torch.randn(2, 3, 32, 32)
        head = text_head(embed_class_texts(clip, tokenizer, classes, "a {}"), clip.logit_scale.exp().item())
        with torch.no_grad():
            theirs, _ = clip.get_logits(images, tokenizer([f"a {name}" for name in classes]))
            assert torch.allclose(head(clip.encode_image(images)), theirs, atol=1e-4)


class TestLoading:
    def test_a_loaded_head_is_the_bundles_and_frozen(self, tmp_path):
        """Served scores are those that were trained."""
        bundle = read_bundle(make_bundle(tmp_path, "digits", "ab" * 32))
        head = load_head(bundle)
        features = torch.randn(2, 16)
        by_hand = features @ torch.from_numpy(bundle.tensors["head.weight"].copy()).T
        assert torch.allclose(head(features), by_hand, atol=1e-5)
        assert not any(parameter.requires_grad for parameter in head.parameters())
