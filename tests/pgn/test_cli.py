"""The command line: what each command prints, and that every error is one line with the right exit code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgn.cli import main, train
from tests.toys import make_bundle, make_images, make_store
from training.config import Recipe, TrainConfig, option_defaults
from training.methods import METHODS


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `pgn ARGUMENTS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pgn", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
    streams = capsys.readouterr()
    return int(exit_info.value.code or 0), streams.out, streams.err


def test_help_groups_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer sees at one glance what trains, what serves and what keeps the store."""
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert [re.search(rf"─ {group} ─", out) is not None for group in ("Train", "Serve", "Model store")] == [True] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list --nonsense", "pgn: no such option: --nonsense (`pgn list --help` lists what there is)\n"),
        (
            "train --library nosuch",
            "pgn: invalid value for '--library': 'nosuch' is not one of 'latent', 'rgb', 'none'",
        ),
        ("train --epochs many", "pgn: invalid value for '--epochs'"),
        ("evaluate", "pgn: missing argument"),
        ("data chekc", "pgn: no such command 'chekc'"),
    ],
)
def test_a_typing_mistake_is_one_line_and_asked_wrongly(
    capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    """Exit code 2 tells a script that the command, not the machine, is at fault."""
    code, out, err = run(capsys, *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(said)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    """For `pgn` and for its groups."""
    for words in ((), ("data",), ("backbone",)):
        _, out, err = run(capsys, *words)
        assert "Usage: pgn" in out + err


def test_help_of_train_tells_the_defaults_that_there_are() -> None:
    """Options are None where nobody says them, so the help has the defaults in words; they are the config's."""
    options = inspect.signature(train, eval_str=True).parameters
    told = {name: option.annotation.__metadata__[0].show_default for name, option in options.items()}
    told = {name: words for name, words in told.items() if isinstance(words, str)}
    assert told.pop("epochs") == "by number of images"
    assert told == {name: str(option_defaults()[name]) for name in told}
    assert {"backbone", "seed", "optimizer", "library_rate", "keep"} <= told.keys()


def test_help_of_train_names_every_method() -> None:
    """Whoever installed the package has no docs folder."""
    words = inspect.signature(train, eval_str=True).parameters["method"].annotation.__metadata__[0].help
    assert all(name in words.replace(",", "").split() for name in METHODS if name != "pgn")


def test_an_empty_folder_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A user error is a sentence that names the file, never a traceback."""
    code, out, err = run(capsys, "list", "--store", tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "index.json" in err


def test_an_added_bundle_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`pgn add` makes a data set served, and `pgn list` shows it."""
    store = make_store(tmp_path / "store", ["flowers"])
    backbone = next(digest for _, digest in store.backbones().values())
    path = make_bundle(tmp_path, "pets", backbone)
    assert run(capsys, "add", path, "--store", store.root)[0] == 0
    code, out, _ = run(capsys, "list", "--store", store.root)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["flowers", "pets"]


def test_a_damaged_bundle_is_listed_with_its_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One bad file is named and does not hide the others."""
    store = make_store(tmp_path / "store", ["flowers", "pets"])
    path = next((store.root / "datasets" / "pets").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    _, out, _ = run(capsys, "list", "--store", store.root)
    flowers, pets = out.splitlines()[2:]
    assert flowers.endswith("ready")
    assert "refused" in pets
    assert "SHA-256" in pets


def test_a_silent_address_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`pgn predict` with no service running says where it asked and what starts one."""
    image = tmp_path / "image.png"
    image.write_bytes(b"\x89PNG")
    code, _, err = run(capsys, "predict", image, "--dataset", "digits", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "pgn serve" in err


def test_prompts_are_written_into_an_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`pgn invert` writes a PNG that the frozen ViT answers as the PGN would, from the store or from a bundle file."""
    store = make_store(tmp_path / "store", ["flowers"])
    backbone = next(digest for _, digest in store.backbones().values())
    bundle = make_bundle(tmp_path, "pixels", backbone, library="rgb")
    store.publish(bundle)
    image = tmp_path / "image.png"
    image.write_bytes(make_images(1)[0])
    told_where = ["--dataset", "pixels", "--out", tmp_path / "out.png"]
    for which, written in ((told_where, "out.png"), (["--bundle", bundle], "image.prompted.png")):
        code, out, _ = run(capsys, "invert", image, *which, "--store", store.root)
        assert code == 0
        assert (tmp_path / written).is_file()
        assert "32 x 40 pixels" in out
        assert "exact in 8 bits" in out
        assert "the same class" in out


def test_inversion_of_nothing_and_of_two_things_is_asked_wrongly(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A name and a file may disagree; neither says nothing."""
    for which in ([], ["--dataset", "a", "--bundle", "b"]):
        code, _, err = run(capsys, "invert", "image.png", *which, "--out", tmp_path / "out.png")
        assert code == 2
        assert "give one of --dataset and --bundle" in err


@pytest.mark.shared
def test_an_authors_checkpoint_is_imported(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: Path) -> None:
    """`pgn import-reference` reads the sizes off the tensors and says them."""
    checkpoint = shared / "reference/checkpoints/pgn_vit_eurosat.safetensors"
    code, out, _ = run(capsys, "import-reference", checkpoint, "--out", tmp_path / "generator.safetensors")
    assert code == 0
    assert "K 16, N 128, D 768, 669,808 parameters" in out


def test_every_field_of_a_run_is_a_flag() -> None:
    """A bundle's manifest holds the command that made it; the command has to be one that can be typed."""
    fields = {*TrainConfig.model_fields, *Recipe.model_fields} - {"recipe"}
    others = {"config", "recipe", "tensorboard", "metrics_port"}  # these decide nothing of the result by themselves
    assert set(inspect.signature(train).parameters) == fields | others


def test_the_console_script_starts_without_torch() -> None:
    """`pgn --help` answers at once: heavy libraries are loaded by the commands that need them."""
    code = "import sys; import pgn.cli; sys.exit(any(name in sys.modules for name in ('torch', 'fastapi')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_is_made_listed_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Only making it prints it, and nothing else on that line, so that a script can take it."""
    file = ("--file", tmp_path / "keys.toml")
    code, key, _ = run(capsys, "key", "new", "team-a", "--dataset", "digits", "--rate", "2.5", "--admin", *file)
    assert (code, len(key.split())) == (0, 1)
    assert run(capsys, "key", "list", *file)[1] == "team-a  digits  admin  rate 2.5\n"
    assert key.strip() not in (tmp_path / "keys.toml").read_text()
    assert run(capsys, "key", "revoke", "team-a", *file)[0] == 0
    assert run(capsys, "key", "list", *file)[1] == ""


def test_a_key_without_a_file_is_asked_wrongly(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting of the gateway serves as the default."""
    code, _, err = run(capsys, "key", "new", "team-a")
    assert code == 2
    assert "PGN_KEYS" in err
    monkeypatch.setenv("PGN_KEYS", str(tmp_path / "keys.toml"))
    assert run(capsys, "key", "new", "team-a")[0] == 0
    assert run(capsys, "key", "list")[1] == "team-a  *\n"
