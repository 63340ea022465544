"""Signatures of a release's manifest, made with minisign or GPG."""

import os
import shutil
import subprocess
from pathlib import Path

from prune_dual.manifest.signature import check_signature

from .config import Signing
from .errors import UserError

PASSWORD = "MINISIGN_PASSWORD"


def require_signer(signing: Signing | None) -> None:
    """Check that the manifest can be signed, long before there is one.

    Raises
    ------
    UserError
        if the program or the secret key is missing.
    """
    if signing is None:
        return
    program, key = ("gpg", signing.gpg) if signing.minisign is None else ("minisign", signing.minisign)
    if shutil.which(program) is None:
        raise UserError(f"release.sign needs {program}; install it or set release.sign to null")
    list_key = ["gpg", "--batch", "--list-secret-keys", str(key)]
    if program == "gpg" and subprocess.run(list_key, capture_output=True).returncode:
        raise UserError(f"release.sign.gpg: the keyring has no secret key {key}")
    if program == "minisign" and not Path(str(key)).is_file():
        raise UserError(f"release.sign.minisign: there is no file {key}")


def sign(path: Path, signing: Signing, comment: str) -> Path:
    """Sign the manifest at `path`, check the signature as a user will, and return its path.

    minisign's is the same for the same file and `comment`; GPG's has the time in it.

    Raises
    ------
    UserError
        if the program is missing or refuses.
    GgufError
        if the signature is not by `signing.identity`.
    """
    require_signer(signing)
    if signing.minisign is not None:
        target = path.with_name(path.name + ".minisig")
        command = ["minisign", "-Sm", str(path), "-x", str(target), "-s", signing.minisign, "-t", comment]
    else:
        target = path.with_name(path.name + ".asc")
        command = ["gpg", "--batch", "--yes", "--armor", "--local-user", str(signing.gpg), "--output", str(target)]
        command += ["--detach-sign", str(path)]
    # minisign asks for the password of an encrypted key
    done = subprocess.run(command, input=os.environ.get(PASSWORD, "") + "\n", capture_output=True, text=True)
    if done.returncode != 0 or not target.is_file():
        said = " ".join((done.stdout + done.stderr).split())
        raise UserError(f"{command[0]} did not sign {path.name}: {said} (a minisign key's password goes in {PASSWORD})")
    check_signature(path.parent, signing.identity)
    return target
