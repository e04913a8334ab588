"""`make k8s-check`: what it prints, when it fails, and that exceptions are explained and needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from k8s.check import __main__ as program
from k8s.check import exceptions, tools
from k8s.check.exceptions import Explained, Finding, judge
from k8s.check.tools import ToolMissing
from tests.k8s.rendered import ALL, CPU, objects_of

SMALL_UID = Finding("checkov", "CKV_K8S_40", "high UID", "Deployment/pgn-serve", "overlays.cpu")


class TestATableOfSteps:
    @pytest.fixture(autouse=True)
    def no_integration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)

    def show(self, found: Iterable[str] | Exception, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
        """Whether a step that finds this passes, and what is printed of it."""

        def step() -> Iterable[str]:
            if isinstance(found, Exception):
                raise found
            return found

        return program._show("a step", step), capsys.readouterr().out

    def test_a_step_without_faults_passes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One line, which says so."""
        assert self.show([], capsys) == (True, "pass  a step\n")

    def test_every_fault_is_a_line_and_is_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The reason stands where the failure stands."""
        passed, printed = self.show(["x is wrong", "x is wrong", "y too"], capsys)
        assert (passed, printed) == (False, "FAIL  a step\n        x is wrong\n        y too\n")

    def test_a_flood_of_faults_is_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong base is wrong everywhere; the first lines tell."""
        _, printed = self.show(map(str, range(100)), capsys)
        assert printed.endswith("        19\n        and 80 more\n")

    def test_a_step_that_breaks_is_a_step_that_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One line, no traceback, and the other steps still run."""
        passed, printed = self.show(RuntimeError("checkov ended with 2: no"), capsys)
        assert (passed, printed) == (False, "FAIL  a step\n        RuntimeError: checkov ended with 2: no\n")

    def test_a_tool_that_is_missing_is_said_and_is_no_failure(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever has no Prometheus can still check the rest."""
        passed, printed = self.show(ToolMissing("apt-get install prometheus"), capsys)
        assert (passed, printed) == (True, "skip  a step\n        not installed: apt-get install prometheus\n")

    def test_in_continuous_integration_it_is_one(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gate that checks less than it says is none."""
        monkeypatch.setenv("CI", "true")
        assert self.show(ToolMissing("apt-get install prometheus"), capsys)[0] is False


def test_a_fault_of_the_base_is_said_once_with_where_else_it_is() -> None:
    """Twenty combinations of one base would say it twenty times."""
    rendered = {each: list(objects_of(each)) for each in ALL[:3]}
    (line,) = program._over(rendered, [lambda objects: iter(["the base is wrong"])])()
    assert line == f"{ALL[0]}: the base is wrong (and in 2 more)"


def test_tools_get_every_object_once(tmp_path: Path) -> None:
    """They are slow, and most objects are the same in many combinations."""
    program._write({each: list(objects_of(each)) for each in ALL}, tmp_path)
    written = [each for path in tmp_path.glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    assert all(each in written for each in objects_of(CPU))
    assert len(written) == len({yaml.safe_dump(each) for each in written})


class TestExceptions:
    def test_what_nothing_explains_is_a_fault(self) -> None:
        """With the check, its title and where else it was found."""
        twice = [SMALL_UID, Finding("checkov", "CKV_K8S_40", "high UID", "Deployment/pgn-serve", "overlays.gpu")]
        assert judge(twice, []) == ["CKV_K8S_40 high UID: Deployment/pgn-serve (overlays.cpu and 1 more)"]

    def test_what_is_explained_for_another_place_is_a_fault(self) -> None:
        """An exception is for the places that it names."""
        reason = Explained(tool="checkov", check="CKV_K8S_40", where="^Job/", reason="a reason of some length")
        assert len(judge([SMALL_UID], [reason])) == 2

    def test_what_is_explained_passes(self) -> None:
        """For this tool, this check, this place."""
        reason = Explained(tool="checkov", check="CKV_K8S_40", where="^Deployment/", reason="a reason of some length")
        assert judge([SMALL_UID], [reason]) == []

    def test_an_exception_that_is_not_needed_any_more_is_a_fault(self) -> None:
        """It would cover the next fault of its kind."""
        reason = Explained(tool="trivy", check="KSV020", where="pgn-", reason="a reason of some length")
        assert judge([], [reason]) == ["KSV020 is explained for 'pgn-' and not found there any more"]

    def test_an_exception_without_a_reason_is_refused(self, tmp_path: Path) -> None:
        """The reason is the point of the file."""
        (tmp_path / "exceptions.yaml").write_text("[{tool: trivy, check: KSV020, where: x, reason: because}]")
        with pytest.raises(ValidationError, match="reason"):
            exceptions.read(tmp_path / "exceptions.yaml")

    def test_ours_can_be_read(self) -> None:
        """Each says why, in a sentence."""
        assert all(each.reason.endswith(".") for each in exceptions.read())


def test_the_dockerfile_is_clean() -> None:
    """hadolint's rules, without exceptions but those that the file itself explains."""
    assert tools.hadolint() == []


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["checkov", "trivy"])
def test_policies_hold_but_for_what_is_explained(tool: str, tmp_path: Path) -> None:
    """What others know to look for, over every object of every combination."""
    folder = program._write({each: list(objects_of(each)) for each in ALL}, tmp_path)
    try:
        findings = getattr(tools, tool)(folder)
    except ToolMissing as error:
        pytest.skip(f"{tool} is not installed: {error}")
    assert program._policies(tool, findings) == []


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["checkov", "trivy"])
def test_the_policy_tools_see_a_pod_with_rights(tool: str, tmp_path: Path) -> None:
    """Else their silence would prove nothing."""
    container = {"name": "x", "image": "x:1", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    try:
        findings = getattr(tools, tool)(tmp_path)
    except ToolMissing as error:
        pytest.skip(f"{tool} is not installed: {error}")
    assert any("rivileged" in finding.title for finding in findings)
