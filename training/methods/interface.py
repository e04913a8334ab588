"""The interface of a method: what it needs of the frozen ViT, how it starts, and how fast each of its parts learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from pgn.method.backbone import FrozenBackbone
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting

HeadKind: TypeAlias = Literal["linear", "text", "prototypes"]


class Adapter(nn.Module, ABC):
    """What learns between an image and its features, around the frozen ViT that is passed in and never touched."""

    @abstractmethod
    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """Features of adapted images.

        Args:
            backbone: The frozen ViT.
            inputs: (B, 3, S, S) normalised images.
            kept: (B, n) indices into the ViT's own tokens, those that a training step sees; None for all of them.

        Returns:
            (B, features) of the kind that the head reads; under autocast perhaps in bfloat16.
        """


class Method(ABC):
    """One way to adapt, as a row of the comparison.

    Attributes:
        reach: What it needs of the ViT to answer.
        served: Whether its result is a bundle. What is not is trained and compared, and never served.
        heads: The heads that its features can go to, the usual one first.
        head_learns: Whether its head has to learn, or must not; None leaves it to the config.
        options: Its own fields of TrainConfig and Recipe: those that not every method reads, and this one does.
        parameters: How many values its adapter learns, as a formula in the letters of docs/methods.md.
        source: Where the method comes from.
    """

    reach: ClassVar[Reach]
    served: ClassVar[bool] = False
    heads: ClassVar[tuple[HeadKind, ...]] = ("linear", "text", "prototypes")
    head_learns: ClassVar[bool | None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[str]
    source: ClassVar[str]

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:  # noqa: ARG002
        """Before any image is decoded: method, options and backbone fit together.

        Raises:
            UsageError: They do not.
            BackboneInvalid: Class texts are asked for, and the backbone's folder has no text tower.
        """
        if config.head == "text":
            from training.backbones.clip import require_text_tower  # open_clip is slow to import

            require_text_tower(config.backbone)

    @abstractmethod
    def start(self, setting: Setting) -> Adapter:
        """The adapter with this method's initial values, drawn from torch's global random state.

        Raises:
            UsageError: What the run starts from does not fit it.
        """

    @abstractmethod
    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """The adapter's parameters in groups with a rate (`lr`) and a `weight_decay`, as optimisers take them."""

    def first(self, setting: Setting) -> TrainConfig | None:  # noqa: ARG002
        """A run that has to be finished before this one can start; None if there is no such run.

        Raises:
            UsageError: The config asks for one whose result would not be used.
        """
        return None

    def own_features(self, config: TrainConfig) -> int | None:  # noqa: ARG002
        """Width of the features, if they are the method's own and not of the frozen ViT's kind; else None."""
        return None
