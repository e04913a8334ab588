"""Do vectors of the same class lie together: k-means against the labels, and the map of all prompts by t-SNE."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from training.analysis.study import Study

LABELS: Final = "labels"
_DIMENSIONS = 50  # of what is clustered and mapped, by PCA: prompts have K * D values, nearly all of them redundant


def vectors_of(found: Study) -> dict[str, Tensor]:
    """What can be clustered, each (M, width): prompts, frozen features, combined features.

    Prompts are left out where they are the same for every image.
    """
    prompts = found.prompts.flatten(1)
    varied = bool((prompts != prompts[0]).any())
    return {
        **({"PGN prompts": prompts} if varied else {}),
        "frozen ViT": found.frozen,
        "frozen ViT + prompts": found.combined,
    }


def mutual_information(vectors: dict[str, Tensor], labels: Tensor) -> dict[tuple[str, str], float]:
    """Normalised mutual information of all pairs, each in 0..1: 0 knows nothing of the other, 1 is the same grouping.

    Args:
        vectors: (M, width) each; k-means puts them into as many clusters as there are classes among the labels.
        labels: (M); they join the pairs as LABELS.

    Source: Loedeman et al., BMVC 2024, the analysis of complementary features.
    """
    groupings = {name: _cluster(values, len(labels.unique())) for name, values in vectors.items()}
    groupings[LABELS] = labels.numpy()
    return {
        (one, other): float(normalized_mutual_info_score(groupings[one], groupings[other]))
        for one, other in combinations(groupings, 2)
    }


def _cluster(vectors: Tensor, count: int) -> NDArray[np.int32]:
    return KMeans(count, n_init=4, random_state=0).fit_predict(_reduced(vectors))


def prompt_map(prompts: Tensor) -> NDArray[np.float32]:
    """(M, 2) places on a plane where near means alike, by t-SNE of the (M, ...) prompts; always the same.

    M is at least 5. Distances between far groups mean nothing.
    """
    reduced = _reduced(prompts.flatten(1))
    perplexity = min(30.0, (len(reduced) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)


def _reduced(vectors: Tensor) -> NDArray[np.float32]:
    rows = torch.nn.functional.normalize(vectors.float(), dim=1).numpy()
    width = min(_DIMENSIONS, *rows.shape)
    return PCA(width, random_state=0).fit_transform(rows)
