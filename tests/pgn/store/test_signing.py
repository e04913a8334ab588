"""Signatures say who made a bundle; where a public key is set, nothing else is taken, from nowhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pgn.errors import BundleCorrupt, SetupError, SignatureInvalid
from pgn.index import read_index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from pgn.store.publish import open_publisher
from pgn.store.remote import RemoteStore, open_remote
from pgn.store.signing import open_verifier, sign, signature_path
from pgn.store.sync import sync_once

MakeBundle = Callable[..., Path]


def write_key(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[Path, Path]:
    """A private key and its public key as PEM files."""
    private, public = folder / f"{name}.pem", folder / f"{name}.public.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Ours, somebody else's, and one of a kind that is not taken."""
    folder = tmp_path_factory.mktemp("keys")
    return {
        "ours": write_key(folder, "ours", ec.generate_private_key(ec.SECP256R1())),
        "theirs": write_key(folder, "theirs", ec.generate_private_key(ec.SECP256R1())),
        "rsa": write_key(folder, "rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    }


@pytest.fixture
def signed(bundle: MakeBundle, keys: dict[str, tuple[Path, Path]], tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of a bundle with a signature beside it."""

    def make(dataset: str, seed: int = 0, by: str = "ours") -> Path:
        folder = tmp_path / f"{by}-{seed}"
        folder.mkdir(exist_ok=True)
        path = Path(shutil.copy(bundle(dataset, seed), folder))
        sign(path, keys[by][0])
        return path

    return make


@pytest.fixture
def strict(toys: LocalStore, keys: dict[str, tuple[Path, Path]], tmp_path: Path) -> Settings:
    """A folder that takes nothing without our signature."""
    shutil.copytree(toys.root / "backbones", tmp_path / "strict" / "backbones")
    return Settings(store=tmp_path / "strict", public_key=keys["ours"][1])


def test_a_signed_bundle_is_taken_with_its_signature(strict: Settings, signed: Callable[..., Path]) -> None:
    """The signature goes where the bundle goes, so that others can check it too."""
    opened, _ = open_publisher(strict).publish(signed("digits"))
    assert signature_path(LocalStore(strict.store).bundle_path("digits", opened.digest)).is_file()


def test_an_upload_brings_its_signature_along(strict: Settings, signed: Callable[..., Path]) -> None:
    """Bytes have no file beside them."""
    path = signed("digits")
    open_publisher(strict).publish(path.read_bytes(), signature=signature_path(path).read_bytes())
    with pytest.raises(SignatureInvalid, match="has no signature"):
        open_publisher(strict).publish(path.read_bytes())


def test_the_signature_is_what_openssf_specifies(signed: Callable[..., Path]) -> None:
    """A Sigstore bundle around an in-toto statement: other tools can read it."""
    signature = json.loads(signature_path(signed("digits")).read_text())
    assert signature["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
    assert signature["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"


def swap(path: Path, signed: Callable[..., Path]) -> None:
    signature_path(path).write_bytes(signature_path(signed("digits", 1)).read_bytes())


def test_the_librarys_own_command_verifies_it(signed: Callable[..., Path], keys: dict[str, tuple[Path, Path]]) -> None:
    """An auditor needs nothing of ours."""
    path = signed("digits")
    program = Path(sys.executable).parent / "model_signing"
    command = [program, "verify", "key", path, "--signature", signature_path(path), "--public_key", keys["ours"][1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path, _: signature_path(path).unlink(), "has no signature, and ours.public.pem asks for one"),
        (swap, "does not fit ours.public.pem: Signature mismatch"),
        (lambda path, _: signature_path(path).write_bytes(b""), "does not fit"),
        (lambda path, _: signature_path(path).write_bytes(b"\xff\x00" * 50), "does not fit"),
        (lambda path, _: signature_path(path).write_bytes(b"{}"), "does not fit"),
        (lambda path, _: signature_path(path).write_bytes(b"[" * 100_000), "does not fit"),
    ],
    ids=["none", "swapped", "empty", "noise", "hollow", "deep"],
)
def test_a_bundle_that_is_not_rightly_signed_is_refused(
    strict: Settings, signed: Callable[..., Path], spoil: Callable[..., None], says: str
) -> None:
    """Whatever lies there in a signature's place; nothing of the bundle stays."""
    path = signed("digits")
    spoil(path, signed)
    with pytest.raises(SignatureInvalid, match=says) as refusal:
        open_publisher(strict).publish(path)
    assert "\n" not in str(refusal.value)
    assert not (strict.store / "datasets").exists()


def test_somebody_elses_signature_is_refused(strict: Settings, signed: Callable[..., Path]) -> None:
    """The key is what is trusted."""
    with pytest.raises(SignatureInvalid, match="Key mismatch"):
        open_publisher(strict).publish(signed("digits", by="theirs"))


def test_a_changed_byte_is_refused_even_under_its_new_name(strict: Settings, signed: Callable[..., Path]) -> None:
    """Who can change a file can also name it by its new digest; he cannot sign it."""
    path = signed("digits")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleCorrupt):
        open_publisher(strict).publish(path)
    with pytest.raises(SignatureInvalid, match="Signature mismatch"):
        open_publisher(strict).publish(path.read_bytes(), signature=signature_path(path).read_bytes())


def test_without_a_public_key_nothing_has_to_be_signed(strict: Settings, bundle: MakeBundle) -> None:
    """Signatures are a choice of the operator's."""
    open_publisher(Settings(store=strict.store)).publish(bundle("digits"))


def test_a_server_takes_from_the_bucket_what_is_signed(
    bucket_store: RemoteStore,
    settings: Callable[..., Settings],
    signed: Callable[..., Path],
    bundle: MakeBundle,
    keys: dict[str, tuple[Path, Path]],
) -> None:
    """Whoever may write to the bucket cannot make servers serve his own; the old version goes on."""
    bucket_store.publish(signed("digits"))
    strict = settings(public_key=keys["ours"][1])
    assert sync_once(strict).failures == ()
    bucket_store.publish(bundle("digits", 1))  # not signed: this publisher does not ask
    bucket_store.publish(signed("letters", 2, by="theirs"))
    failures = {failure.dataset: failure for failure in sync_once(strict).failures}
    assert failures["digits"].code == failures["letters"].code == "bundle.signature"
    assert "has no signature" in failures["digits"].message
    assert "Key mismatch" in failures["letters"].message
    index = read_index(strict.store)
    assert set(index.datasets) == {"digits"}
    assert index.main_version("digits")[:16] == bundle("digits").name.split(".")[1]
    with pytest.raises(SignatureInvalid):
        open_remote(strict).publish(bundle("digits", 1))
    open_remote(strict).publish(signed("digits", 1))
    open_remote(strict).publish(signed("letters", 2))
    assert sync_once(strict).failures == ()


@pytest.mark.parametrize("key", ["none", "rsa", "noise"])
def test_a_key_that_cannot_be_used_is_told_at_once(
    key: str, keys: dict[str, tuple[Path, Path]], bundle: MakeBundle, tmp_path: Path
) -> None:
    """Before anything is taken, with the file's name and a command that makes a right one."""
    (tmp_path / "noise").write_text("hello")
    private, public = {
        "none": (tmp_path / "none", tmp_path / "none"),
        "rsa": keys["rsa"],
        "noise": (tmp_path / "noise", tmp_path / "noise"),
    }[key]
    with pytest.raises(SetupError, match=f"the public key {public} cannot be used") as refusal:
        open_verifier(public)
    assert "openssl ec" in refusal.value.hint
    with pytest.raises(SetupError, match=f"{private} cannot sign") as refusal:
        sign(Path(shutil.copy(bundle("digits"), tmp_path)), private)
    assert "openssl ecparam" in refusal.value.hint


def test_the_library_is_loaded_by_those_who_ask_for_it() -> None:
    """A server without a public key, and every other command, starts without it."""
    code = "import sys, pgn.store.publish, pgn.store.sync, pgn.cli; sys.exit('model_signing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_library_is_told(tmp_path: Path) -> None:
    """It is an extra; the hint has the command."""
    code = (
        "import sys; sys.modules['model_signing'] = None\n"
        "from pathlib import Path; from pgn.errors import SetupError; from pgn.store.signing import open_verifier\n"
        "try: open_verifier(Path('x'))\n"
        "except SetupError as error: sys.exit('pgn-serve[signing]' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
