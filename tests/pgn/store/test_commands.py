"""The model store's commands: what each prints, on a folder and on a bucket, and that every fault is one line."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgn.cli import main
from pgn.index import read_index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from pgn.store.remote import RemoteStore
from pgn.store.sync import read_sync_state
from tests.toys import make_store

MakeBundle = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Exit code, standard output and standard error of `pgn ARGUMENTS`."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pgn", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        streams = capsys.readouterr()
        return int(exit_info.value.code or 0), streams.out, streams.err

    return call


@pytest.fixture
def folder(toys: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toys' store, which PGN_STORE names."""
    shutil.copytree(toys.root, tmp_path / "store")
    monkeypatch.setenv("PGN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def version(path: Path) -> str:
    return path.name.split(".")[1]


def rows(out: str) -> list[list[str]]:
    """The cells of `pgn list`, below its two lines of headings."""
    return [line.split() for line in out.splitlines()[2:]]


def test_a_trial_is_added_listed_and_taken_back(folder: Path, bundle: MakeBundle, run: Run) -> None:
    """The whole life of a version, in the words of the command line."""
    old = read_index(folder).main_version("digits")[:16]
    new = version(bundle("digits", 5))
    code, out, _ = run("add", bundle("digits", 5), "--share", 0.25)
    assert (code, out) == (0, f"digits {new} is served from revision 3 on\n")
    digits, trial, letters = rows(run("list")[1])[0], rows(run("list")[1])[1], rows(run("list")[1])[2]
    assert digits[:3] == ["digits", new, "25%"]
    assert trial[:3] == ["digits", old, "75%"]
    assert letters[-1] == "ready"
    assert run("rollback", "digits")[1] == f"digits is served by {old} (100%) from revision 4 on\n"
    assert run("remove", "letters")[1] == "letters is not served from revision 5 on\n"
    assert [row[0] for row in rows(run("list")[1])] == ["digits"]


def test_the_table_tells_what_an_operator_asks(folder: Path, bundle: MakeBundle, run: Run) -> None:
    """Size, classes, accuracy if it was measured, when, and how far one can go back."""
    run("add", bundle("digits", 5))
    out = run("list")[1]
    assert out.splitlines()[1].split("  ")[0] == "data set"
    cells = rows(out)[0]
    assert cells[3:] == ["0.1", "MB", "3", "-", "2026-01-01", "00:00", "1", "ready"]


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["rollback", "digits"], 1, "'digits' has no version to go back to"),
        (["rollback", "digit"], 1, "near names: digits"),
        (["remove", "x"], 1, "no data set 'x' is served"),
        (["publish"], 2, "give bundle files, or --all"),
        (["publish", "--all"], 1, "no bucket is named (set PGN_REMOTE or --remote to s3://bucket/prefix)"),
        (["sync"], 1, "no bucket is named"),
        (["list", "--remote", "http://bucket"], 1, "PGN_REMOTE='http://bucket'"),
        (["backbone", "publish", "nothing", "--remote", "s3://b/x"], 1, "there is no backbone folder nothing"),
    ],
)
def test_a_slip_is_one_line(folder: Path, run: Run, command: list[str], code: int, says: str) -> None:
    """What was met and what to do, never a traceback."""
    found, out, err = run(*command)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert says in err


def test_a_share_over_one_is_asked_wrongly(folder: Path, bundle: MakeBundle, run: Run) -> None:
    """The program says so before it reads the file."""
    assert run("add", bundle("digits"), "--share", 1.5)[0] == 2


class TestBucket:
    @pytest.fixture
    def remote(self, settings: Callable[..., Settings], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """An unused prefix, which PGN_REMOTE names; PGN_STORE names a store of one's own."""
        address = str(settings().remote)
        monkeypatch.setenv("PGN_REMOTE", address)
        return address

    def test_a_store_goes_up_and_comes_down_elsewhere(
        self, remote: str, folder: Path, bundle: MakeBundle, run: Run, tmp_path: Path
    ) -> None:
        """Backbone first, then everything with its shares; another machine then serves the same."""
        assert run("add", bundle("digits", 5), "--share", 0.25, "--remote", remote)[0] == 1, "no backbone yet"
        digest = read_index(folder).backbone
        assert run("backbone", "publish", "toy")[1] == f"{remote}/backbones/{digest}\n"
        assert run("backbone", "publish", "toy")[1] == f"{remote}/backbones/{digest} is there already\n"
        assert run("backbone", "list")[1].startswith(f"toy  {digest[:16]}  open_clip")
        LocalStore(folder).publish(bundle("digits", 5), share=0.25)
        code, out, _ = run("publish", "--all")
        assert (code, len(out.splitlines())) == (0, 3)
        assert run("publish", "--all")[1] == "", "what is there already is left alone"
        other = tmp_path / "other"
        assert run("sync", "--store", other)[1] == f"{other} serves revision 3 of {remote}\n"
        assert read_index(other).datasets == read_index(folder).datasets

    def test_commands_change_the_bucket_and_not_the_folder(
        self, remote: str, folder: Path, bucket_store: RemoteStore, bundle: MakeBundle, run: Run
    ) -> None:
        """With S3 the bucket's index is the only truth."""
        before = read_index(folder)
        run("publish", bundle("digits"))
        run("add", bundle("digits", 5), "--share", 0.5)
        listed = rows(run("list")[1])
        assert [row[:3] for row in listed] == [
            ["digits", version(bundle("digits", 5)), "50%"],
            ["digits", version(bundle("digits")), "50%"],
        ]
        assert {row[-1] for row in listed} == {"published"}
        run("rollback", "digits")
        assert bucket_store.index().main_version("digits")[:16] == version(bundle("digits"))
        run("remove", "digits")
        assert rows(run("list")[1]) == []
        assert read_index(folder) == before

    def test_a_gap_is_told_with_a_failing_code(
        self, remote: str, bucket_store: RemoteStore, bundle: MakeBundle, run: Run, tmp_path: Path
    ) -> None:
        """A script sees that the folder is not complete; the rest was brought."""
        for dataset in ("digits", "letters"):
            bucket_store.publish(bundle(dataset))
        bucket_store.bucket.delete(f"datasets/digits/{bundle('digits').name}")
        code, _, err = run("sync", "--store", tmp_path / "other")
        assert code == 1
        assert f"digits {version(bundle('digits'))} stays as it was: s3://" in err
        assert set(read_index(tmp_path / "other").datasets) == {"letters"}
        assert {row[-1] for row in rows(run("list")[1])} == {"missing", "published"}

    def test_watching_ends_at_sigterm(
        self, remote: str, bucket_store: RemoteStore, bundle: MakeBundle, tmp_path: Path
    ) -> None:
        """A container that is stopped has nothing to finish: every file is whole at every moment."""
        bucket_store.publish(bundle("digits"))
        other = tmp_path / "other"
        command = [sys.executable, "-m", "pgn", "sync", "--watch", "--store", str(other)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            _wait(lambda: _is_complete(other, process))
            process.send_signal(signal.SIGTERM)
            assert (process.wait(60), process.stderr.read() if process.stderr else "") == (0, "")
        finally:
            process.kill()
            process.communicate()

    def test_signed_with_one_command_and_checked_with_one_setting(
        self,
        remote: str,
        bucket_store: RemoteStore,
        bundle: MakeBundle,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The walk of docs/signing.md."""
        private, public = tmp_path / "key.pem", tmp_path / "public.pem"
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
        subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
        monkeypatch.setenv("PGN_PUBLIC_KEY", str(public))
        path = Path(shutil.copy(bundle("digits"), tmp_path))
        code, _, err = run("publish", path)
        assert (code, "has no signature" in err) == (1, True)
        assert run("sign", path, "--key", private)[1] == f"{path}.sig\n"
        assert run("publish", path)[0] == 0
        assert run("sync", "--store", tmp_path / "other")[0] == 0


def _is_complete(folder: Path, process: subprocess.Popen[Any]) -> bool:
    assert process.poll() is None
    state = read_sync_state(folder)
    return state is not None and state.served_revision == 1


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_installation_without_torch_lists_and_syncs(tmp_path: Path) -> None:
    """A sync container is small."""
    make_store(tmp_path / "store", ["digits"])
    code = (
        "import sys; sys.argv = ['pgn', 'list', '--store', sys.argv[1]]\n"
        "sys.modules['torch'] = None; import pgn.store.sync\n"
        "from pgn.cli import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "store"], check=False).returncode == 0
