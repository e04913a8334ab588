"""Our own rules, beyond what schemas say: a function takes the objects of a combination and yields faults.

A rule knows nothing of the code; `cross` has what the code has to say. Each has a test that breaks it
(tests/k8s/test_policies.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from k8s.check import rules_objects, rules_pods
from k8s.check.render import Object

Rule = Callable[[Sequence[Object]], Iterator[str]]

RULES: Final[tuple[Rule, ...]] = (
    rules_pods.restricted,
    rules_pods.locked_down,
    rules_pods.resources_named,
    rules_pods.volumes_sized,
    rules_pods.volumes_mounted,
    rules_pods.gpus_apart,
    rules_pods.probed,
    rules_pods.starts_in_order,
    rules_pods.probes_meet_a_port,
    rules_pods.images_fixed,
    rules_pods.rollouts_end,
    rules_objects.named_once,
    rules_objects.selectors_match,
    rules_objects.references_exist,
    rules_objects.one_scaler,
    rules_objects.drains_pass,
    rules_objects.network_closed,
    rules_objects.quota_admits,
)


def title(rule: Rule) -> str:
    """What a rule wants, in one line."""
    return (rule.__doc__ or rule.__name__).strip().splitlines()[0]
