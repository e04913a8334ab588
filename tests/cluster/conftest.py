"""A real API server, and a namespace of its own for each test.

    KUBECONFIG=... python -m pytest -m cluster tests/cluster

The user has to be the cluster's administrator. No pod ever runs: tests that want ready pods say of them that they are.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.kubectl import Kubectl, Refused, wait_for
from tests.cluster.stand_ins import Kubelets


@pytest.fixture(scope="session")
def any_cluster() -> Kubectl:
    """The cluster that KUBECONFIG names."""
    if not (path := os.environ.get("KUBECONFIG")):
        pytest.skip("no KUBECONFIG: these tests need an API server")
    cluster = Kubectl(Path(path))
    cluster.run("get", "--raw=/readyz", limit_s=30)  # a name that nobody answers is a failure, not a skip
    return cluster


@pytest.fixture
def cluster(any_cluster: Kubectl) -> Iterator[Kubectl]:
    """The cluster, seen from a new namespace that is deleted afterwards with all that is in it."""
    name = f"pgn-test-{uuid.uuid4().hex[:8]}"
    any_cluster.run("create", "namespace", name)
    there = Kubectl(any_cluster.kubeconfig, name)
    wait_for(lambda: has_service_account(there), "the controllers to fill the namespace")
    try:
        yield there
    finally:
        any_cluster.run("delete", "namespace", name, "--wait=false")


def has_service_account(cluster: Kubectl) -> bool:
    """Whether the controller of service accounts has seen the namespace; no pod is made before."""
    try:
        cluster.get("serviceaccount", "default")
    except Refused:
        return False
    return True


@pytest.fixture
def kubelets(cluster: Kubectl) -> Iterator[Kubelets]:
    """Pods of the namespace become ready."""
    with Kubelets(cluster) as running:
        yield running
