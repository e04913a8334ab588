"""Prompt drift: low on images like those of training, high on others, in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from pgn.index import read_index
from pgn.message import CANARY_ID, Target
from pgn.method.generator import PromptGenerator, load_generator
from pgn.settings import Settings
from pgn.stages.bank import Bank, Held
from pgn.stages.drift import WINDOW, Drift, DriftMonitor, jensen_shannon
from pgn.stages.pgn_stage import PgnStage
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, ask
from tests.toys import make_bundle, make_store

TOKENS = 16
CHANCE = np.random.default_rng(0)
PROFILE = CHANCE.dirichlet(np.ones(TOKENS))
OTHER = CHANCE.dirichlet(np.ones(TOKENS))


def usages(centre: NDArray[np.float64], images: int, seed: int = 1) -> NDArray[np.float64]:
    """(images, TOKENS) token usages around a centre, as different from each other as real ones are."""
    return np.random.default_rng(seed).dirichlet(20 * centre, images)


@pytest.fixture
def held(mixed_store: LocalStore) -> Held[PromptGenerator]:
    """Any version, but with PROFILE."""
    bank = Bank(mixed_store, read_index(mixed_store.root).backbone, load_generator)
    found = cast("Held[PromptGenerator]", bank.snapshot.find(Target(dataset="pets")))
    return replace(found, profile=PROFILE.astype(np.float32))


def seen(held: Held[PromptGenerator], *batches: NDArray[np.float64]) -> Drift:
    monitor = DriftMonitor()
    for batch in batches:
        monitor.see(held, batch)
    return monitor.drift()[held.manifest.dataset, held.digest]


distributions = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any).map(np.array)


class TestDistance:
    @given(p=distributions, q=distributions)
    def test_it_is_scipys(self, p: NDArray[np.float64], q: NDArray[np.float64]) -> None:
        """A standard measure under its standard name, so that numbers can be compared."""
        # scipy takes the root of what rounding left below 0
        with np.errstate(invalid="ignore"):
            wanted = float(np.nan_to_num(jensenshannon(p, q, base=2)))
        assert jensen_shannon(p, q) == pytest.approx(wanted, abs=1e-6)
        assert 0 <= jensen_shannon(p, q) <= 1 + 1e-12

    def test_nothing_in_common_is_one_and_equality_nothing(self) -> None:
        """The ends of the scale."""
        assert jensen_shannon(np.array([1.0, 0]), np.array([0, 2.0])) == 1
        assert jensen_shannon(PROFILE, 3 * PROFILE) == pytest.approx(0, abs=1e-7)


class TestMonitor:
    def test_images_like_those_of_training_are_as_far_as_the_noise_says(self, held: Held[PromptGenerator]) -> None:
        """The noise tells which drift is no drift: the mean over few images is never quite the training's."""
        found = [seen(held, usages(PROFILE, 2 * WINDOW, seed)) for seed in range(20)]
        distance, noise = (np.mean([getattr(each, name) for each in found]) for name in ("distance", "noise"))
        assert distance == pytest.approx(noise, rel=0.2)
        assert max(each.distance for each in found) < 2 * noise

    def test_other_images_are_far_above_the_noise(self, held: Held[PromptGenerator]) -> None:
        """This is what the number is for."""
        drift = seen(held, usages(OTHER, 2 * WINDOW))
        assert drift.distance > 5 * drift.noise
        assert drift.distance == pytest.approx(jensen_shannon(OTHER, PROFILE), abs=3 * drift.noise)

    def test_old_images_are_forgotten(self, held: Held[PromptGenerator]) -> None:
        """After a shift the number rises within a few windows, and falls again when it is over."""
        monitor = DriftMonitor()
        distances = []
        for centre in (PROFILE, OTHER, PROFILE):
            monitor.see(held, usages(centre, 6 * WINDOW))
            distances.append(monitor.drift()[held.manifest.dataset, held.digest].distance)
        assert distances[1] > 4 * distances[0]
        assert distances[2] < distances[1] / 4

    def test_batches_do_not_matter(self, held: Held[PromptGenerator]) -> None:
        """One image after the other or all at once: the same window, to rounding."""
        images = usages(PROFILE, 40)
        whole, single = seen(held, images), seen(held, *np.split(images, 40))
        assert (single.distance, single.noise, single.images) == pytest.approx(
            (whole.distance, whole.noise, whole.images)
        )

    def test_it_says_how_many_images_it_rests_on(self, held: Held[PromptGenerator]) -> None:
        """Few images mean little; many count as two windows."""
        assert seen(held, usages(PROFILE, 1)).images == pytest.approx(1)
        assert seen(held, usages(PROFILE, 1)).noise == 1
        assert seen(held, usages(PROFILE, 30)).images == pytest.approx(30, rel=0.05)
        assert seen(held, usages(PROFILE, 50 * WINDOW)).images == pytest.approx(2 * WINDOW, rel=0.01)

    def test_a_mixture_that_is_no_number_is_left_out(self, held: Held[PromptGenerator]) -> None:
        """One image that overflows may not take the gauge away for good."""
        images = usages(PROFILE, 40)
        bad = np.full((1, TOKENS), np.nan)
        assert seen(held, np.concatenate([bad, images]), bad) == seen(held, images)

    def test_what_is_not_served_is_forgotten(self, held: Held[PromptGenerator]) -> None:
        """Memory is bounded by the bank, and a gauge does not tell of yesterday's version."""
        monitor = DriftMonitor()
        monitor.see(held, usages(PROFILE, 3))
        monitor.keep([(held.manifest.dataset, held.digest)])
        assert monitor.drift()
        monitor.keep([("pets", "0" * 64)])
        assert not monitor.drift()


class TestStage:
    def test_a_stage_sees_the_mixture_of_what_it_answers(self, mixed_store: LocalStore) -> None:
        """By data set and version, from the pass that wrote the prompts."""
        stage = PgnStage.load(Settings(store=mixed_store.root), torch.device("cpu"))
        stage.answer([ask("a", ["pets"], [0, 1]), ask("b", ["flowers", "pets"], [2])])
        drift = stage.drift.drift()
        assert {name: round(each.images) for (name, _), each in drift.items()} == {"pets": 3, "flowers": 1}
        held = stage.bank.snapshot.find(Target(dataset="pets"))
        pixels = stage._normalise(torch.from_numpy(SQUARES[:3]))
        with torch.inference_mode():
            mean = cast("PromptGenerator", held.module).mixture(pixels).mean(dim=(0, 1)).numpy()
        assert drift["pets", held.digest].distance == pytest.approx(jensen_shannon(mean, np.full(6, 1 / 6)), abs=2e-3)

    def test_a_canary_is_nobodys_image(self, mixed_store: LocalStore) -> None:
        """A data set that is rarely asked would seem to drift towards what the gateway itself sends."""
        stage = PgnStage.load(Settings(store=mixed_store.root), torch.device("cpu"))
        stage.answer([ask(CANARY_ID, ["pets"], [0, 1]), ask("b", ["pets"], [2])])
        ((_, drift),) = stage.drift.drift().items()
        assert drift.images == 1

    def test_the_drift_of_a_dropped_version_goes_with_it(self, tmp_path: Path) -> None:
        """A gauge for a version that nobody can ask would stay for ever."""
        store = make_store(tmp_path, ["pets"])
        stage = PgnStage.load(Settings(store=store.root, deadline_s=1e-9), torch.device("cpu"))
        stage.answer([ask("a", ["pets"])])
        (old,) = stage.drift.drift()
        new, _ = store.publish(make_bundle(store.root / "made", "pets", read_index(store.root).backbone, seed=4))
        stage.bank.refresh()
        stage.bank.refresh()  # the grace is over
        stage.answer([ask("a", ["pets"])])
        assert list(stage.drift.drift()) == [("pets", new.digest)] != [old]
