"""`python -m k8s.check`: every check of the manifests that needs no cluster, as a table; 1 if one fails."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import yaml

from k8s.check import cross, exceptions, rules, schemas, tools
from k8s.check.combinations import ALL, Combination, unlisted
from k8s.check.render import Object, RenderError, parse, render_text
from k8s.check.tools import ToolMissing

Rendered = dict[Combination, list[Object]]

_MOST_LINES: Final = 20  # of one step


def main() -> int:
    """Run all steps, print a line for each and what they found."""
    began = time.monotonic()
    rendered, faults = _render()
    steps: list[tuple[str, Callable[[], Iterable[str]]]] = [
        (f"render: {len(ALL)} combinations", lambda: faults),
        *((f"schemas: Kubernetes {minor}, strict", _schemas(rendered, minor)) for minor in schemas.MINORS),
        (f"rules: {len(rules.RULES)} of our own", _over(rendered, rules.RULES)),
        (f"code: {len(cross.CHECKS)} cross-checks", _over(rendered, cross.CHECKS)),
        ("hadolint: the Dockerfile", tools.hadolint),
        ("promtool: rules and their tests", tools.promtool),
    ]
    with TemporaryDirectory(prefix="pgn-k8s-") as made, ThreadPoolExecutor() as pool:
        folder = _write(rendered, Path(made))
        # The slow ones, beside the others.
        checkov, trivy = pool.submit(tools.checkov, folder), pool.submit(tools.trivy, folder)
        monitoring = pool.submit(tools.monitoring)
        steps += [
            ("monitoring: files that are made from others", tools.generated),
            ("monitoring: names and labels, in a real scrape", monitoring.result),
            ("checkov: policies", lambda: _policies("checkov", checkov.result())),
            ("trivy: policies", lambda: _policies("trivy", trivy.result())),
        ]
        failed = [name for name, step in steps if not _show(name, step)]
    print(f"{len(steps) - len(failed)} of {len(steps)} passed in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def _show(name: str, step: Callable[[], Iterable[str]]) -> bool:
    """Run a step and print it; whether it passed."""
    try:
        faults = list(dict.fromkeys(step()))
        state = "FAIL" if faults else "pass"
    except ToolMissing as error:
        # In continuous integration a gate that checks less than it says is none.
        state, faults = ("FAIL" if os.environ.get("CI") else "skip"), [f"not installed: {error}"]
    except Exception as error:  # a step that breaks is a step that fails; the others still run
        state, faults = "FAIL", [f"{type(error).__name__}: {error}"]
    print(f"{state}  {name}", flush=True)
    for line in faults[:_MOST_LINES]:
        print(f"        {line}")
    if len(faults) > _MOST_LINES:
        print(f"        and {len(faults) - _MOST_LINES} more")
    return state != "FAIL"


def _render() -> tuple[Rendered, list[str]]:
    rendered, faults = {}, unlisted()
    for each in ALL:
        try:
            rendered[each] = parse(render_text(each))
        except RenderError as error:
            faults.append(f"{each}: {error}")
    return rendered, faults


def _write(rendered: Rendered, folder: Path) -> Path:
    """A file for each combination; an object that is the same in several is written once."""
    seen: set[str] = set()
    for combination, objects in rendered.items():
        new = [each for each in objects if json.dumps(each) not in seen]
        seen.update(map(json.dumps, new))
        (folder / f"{str(combination).replace('/', '.')}.yaml").write_text(yaml.safe_dump_all(new))
    return folder


def _schemas(rendered: Rendered, minor: str) -> Callable[[], Iterator[str]]:
    def step() -> Iterator[str]:
        for combination, objects in rendered.items():
            yield from (f"{combination}: {fault}" for fault in schemas.faults(objects, minor))

    return step


def _over(rendered: Rendered, checks: Iterable[rules.Rule]) -> Callable[[], list[str]]:
    def step() -> list[str]:
        # A fault of the base is in every combination: it is said once.
        where: dict[str, list[str]] = {}
        for combination, objects in rendered.items():
            for check in checks:
                for fault in check(objects):
                    where.setdefault(fault, []).append(str(combination))
        return [
            f"{found[0]}: {fault}{f' (and in {len(found) - 1} more)' if found[1:] else ''}"
            for fault, found in where.items()
        ]

    return step


def _policies(tool: str, findings: list[exceptions.Finding]) -> list[str]:
    explained = [each for each in exceptions.read() if each.tool == tool]
    return exceptions.judge(findings, explained)


if __name__ == "__main__":
    sys.exit(main())
