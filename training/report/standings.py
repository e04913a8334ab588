"""One line of the report's table: what a run or a bundle reached, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from pgn.bundle import Manifest
from training.result import RunResult
from training.scores import top1


@dataclass(frozen=True)
class Standing:
    """Scores are shares in 0..1; of a union, means over its sets. None where it is not known.

    Attributes:
        method: As registered.
        dataset: Name of the set.
        seed: Of the run.
        bundle: Name of the bundle's file, for a method that is served.
        val: Top-1 on validation.
        test: Top-1 on test.
        probe: The linear probe's top-1 on test.
        probe_val: The same on validation.
        trained: Trained parameters, the head's among them.
        ratio: Of those to the frozen ViT's.
        input_only: Whether it needs nothing of the ViT but a place in its input.
        epochs: Trained, and the one that validation chose.
        seconds: Of training.
        images: Of train, val and test.
    """

    method: str
    dataset: str
    seed: int
    bundle: str | None
    val: float
    test: float
    probe: float
    probe_val: float
    trained: int | None
    ratio: float | None
    input_only: bool
    epochs: tuple[int, int]
    seconds: float
    images: dict[str, int]

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{self.method} on {self.dataset}, seed {self.seed}"


def standing_of_run(result: RunResult) -> Standing:
    """Of a finished run of any method."""
    return Standing(
        method=result.method,
        dataset=result.dataset,
        seed=result.seed,
        bundle=result.bundle,
        val=top1(result.val),
        test=top1(result.test),
        probe=top1(result.linear_probe["test"]),
        probe_val=top1(result.linear_probe["val"]),
        trained=result.trained_parameters,
        ratio=result.trained_parameters / result.backbone_parameters,
        input_only=result.input_only,
        epochs=(result.epochs, result.best_epoch),
        seconds=result.seconds,
        images=result.split_sizes,
    )


def standing_of_bundle(file: str, manifest: Manifest) -> Standing:
    """Of a bundle without its run's folder; it does not say how many parameters learned."""
    metrics = manifest.metrics
    return Standing(
        method=manifest.method,
        dataset=manifest.dataset,
        seed=metrics["seed"],
        bundle=file,
        val=top1(metrics["val"]),
        test=top1(metrics["test"]),
        probe=top1(metrics["linear_probe"]["test"]),
        probe_val=top1(metrics["linear_probe"]["val"]),
        trained=None,
        ratio=None,
        input_only=True,
        epochs=(metrics["epochs"], metrics["epoch"]),
        seconds=metrics["train_seconds"],
        images=metrics["split_sizes"],
    )
