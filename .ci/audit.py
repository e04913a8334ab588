"""Looks up every pinned dependency in the vulnerability database; prints one line, fails on what is not explained here.

A database that cannot be reached, or that does not know a package (a mirror without advisories), is said and is no
failure: a machine without network has to be able to run the checks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# Advisory -> why it does not concern us. TorchServe's own state is in SECURITY.md.
EXPLAINED: dict[str, str] = {}


def look_up(service: str) -> list[dict[str, Any]]:
    """Every pinned package with what `service` knows of it; empty if it cannot be asked."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", "constraints.txt"]
    run = subprocess.run(
        [*command, "-s", service, "-f", "json", "--progress-spinner", "off"], capture_output=True, text=True
    )
    try:
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except ValueError:
        return []
    return packages


def main() -> int:
    for service in ("pypi", "osv"):
        packages = look_up(service)
        if any("skip_reason" not in package for package in packages):
            break
    else:
        print("audit: no vulnerability database could be asked (neither PyPI's nor OSV's)")
        return 0
    asked = [package for package in packages if "skip_reason" not in package]
    found = [(package["name"], package["version"], flaw["id"]) for package in asked for flaw in package["vulns"]]
    new = [each for each in found if each[2] not in EXPLAINED]
    for name, version, flaw in new:
        print(f"audit: {name} {version} has {flaw}: take a newer one, or explain it in .ci/audit.py")
    print(
        f"audit: {len(asked)} of {len(packages)} pinned packages looked up, {len(new)} new advisories, "
        f"{len(found) - len(new)} explained"
    )
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
