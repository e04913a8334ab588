"""Signatures of bundles in OpenSSF model-signing's format, by an elliptic-curve key. See docs/signing.md.

A signature says who made a file; that the file is whole, its digest in the index says already. The library is loaded
by those who sign or verify, and by nobody else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pgn.bundle import read_bundle, write_atomically
from pgn.errors import SetupError, SignatureInvalid, one_line

SIGNATURE_SUFFIX: Final = ".sig"
_NOT_INSTALLED: Final = "signatures need the library model-signing, which is not installed"
_INSTALL: Final = "pip install 'pgn-serve[signing]'"

Verifier = Callable[[Path, "bytes | None"], None]
"""Called with a bundle's file and its signature; raises SignatureInvalid if that is missing or does not fit."""


def signature_path(bundle: Path) -> Path:
    """Where the signature of a bundle's file lies: beside it."""
    return bundle.with_name(bundle.name + SIGNATURE_SUFFIX)


def sign(bundle: Path, private_key: Path) -> Path:
    """Write the signature of a bundle beside it and return its path.

    Args:
        bundle: A bundle's file; it has to verify.
        private_key: PEM of a key on an elliptic curve, such as P-256, without a password.

    Raises:
        ArtefactError: The file does not verify as a bundle.
        SetupError: The key cannot be used, or the library is not installed.
    """
    try:
        from model_signing.signing import Config
    except ImportError as error:
        raise SetupError(_NOT_INSTALLED, hint=_INSTALL) from error
    read_bundle(bundle)
    target = signature_path(bundle)
    with tempfile.TemporaryDirectory(prefix="pgn-") as folder:
        scratch = Path(folder) / target.name
        try:
            signer = Config()  # type: ignore[no-untyped-call]
            signer.use_elliptic_key_signer(private_key=private_key).sign(bundle, scratch)
        except Exception as error:  # the library has no errors of its own; a wrong kind of key is an AttributeError
            raise SetupError(
                f"{private_key} cannot sign: {one_line(error)}",
                hint="`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes a key",
            ) from error
        write_atomically(target, scratch.read_bytes())
    return target


def open_verifier(public_key: Path | None) -> Verifier | None:
    """What checks signatures against `public_key`, a PEM; None without a key: then nothing has to be signed.

    Raises:
        SetupError: The key cannot be used, or the library is not installed.
    """
    if public_key is None:
        return None
    try:
        from model_signing.verifying import Config
    except ImportError as error:
        raise SetupError(_NOT_INSTALLED, hint=_INSTALL) from error

    def configured() -> Config:  # one for each signature: it remembers how the last one was made
        config = Config()  # type: ignore[no-untyped-call]
        return config.use_elliptic_key_verifier(public_key=public_key)

    try:
        configured()
    except Exception as error:  # as above
        raise SetupError(
            f"the public key {public_key} cannot be used: {one_line(error)}",
            hint="`openssl ec -in key.pem -pubout -out public.pem` makes it from the private key",
        ) from error

    def verify(bundle: Path, signature: bytes | None) -> None:
        if signature is None:
            raise SignatureInvalid(f"{bundle.name} has no signature, and {public_key.name} asks for one")
        with tempfile.TemporaryDirectory(prefix="pgn-") as folder:
            path = Path(folder) / "signature"
            path.write_bytes(signature)
            try:
                configured().verify(bundle, path)
            except Exception as error:  # from anything the bytes may hold; whatever it is, the bundle is not signed
                raise SignatureInvalid(
                    f"the signature of {bundle.name} does not fit {public_key.name}: {one_line(error)[:200]}"
                ) from error

    return verify
