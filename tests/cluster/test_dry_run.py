"""The API server itself takes every combination, without a warning, down to the admission policies' expressions.

The cluster must run: an API server of 1.33 or later. Custom resources are sent where it has their definitions
(prometheus-operator, KEDA, Gateway API); those of other clusters are left out.
"""

from __future__ import annotations

import pytest

from tests.cluster.kubectl import Kubectl, Refused
from tests.cluster.manifests import in_namespace, without_foreign
from tests.k8s.rendered import ALL, Combination, render

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def served(any_cluster: Kubectl) -> set[tuple[str, str]]:
    """What the server knows."""
    return any_cluster.served()


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_the_server_would_take_it(combination: Combination, cluster: Kubectl, served: set[tuple[str, str]]) -> None:
    """Schemas are not all: validation in code, defaults, quantities, CEL, and rights are the server's alone."""
    objects = without_foreign(in_namespace(render(combination), cluster.namespace), served)
    assert objects
    cluster.apply(*objects, dry_run=True)


def test_a_misspelt_field_is_refused(cluster: Kubectl) -> None:
    """Else the test above would let everything pass."""
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {"a": "b"}}
    with pytest.raises(Refused, match="dta"):
        cluster.apply(wrong, dry_run=True)
