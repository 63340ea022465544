"""Who signed a manifest: minisign, or GPG."""

import os
import re
import subprocess
from pathlib import Path

from ..errors import GgufError
from .content import MANIFEST_NAME


def check_signature(folder: Path, key: str | None) -> str | None:
    """Check the signature of the manifest and return what to say of it; None if there is none.

    Parameters
    ----------
    key
        minisign: the public key or its file; GPG: fingerprint of a key in the user's keyring. Without one nothing is
        checked: a signature by just anyone says nothing.

    Raises
    ------
    GgufError
        if the signature is not good or not by that key, or a key is given and nothing is signed.
    """
    path = folder / MANIFEST_NAME
    for check, suffix in ((_check_minisign, ".minisig"), (_check_gpg, ".asc")):
        signature = path.with_name(path.name + suffix)
        if signature.is_file():
            if key is None:
                return f"{signature.name} was not checked: name the signer's key with --key"
            check(path, signature, key)
            return f"{signature.name} is a good signature by {key}"
    if key is not None:
        raise GgufError(f"{path}: is not signed")
    return None


def _check_minisign(path: Path, signature: Path, key: str) -> None:
    given = ["-p", key] if os.path.isfile(key) else ["-P", key]
    _run(["minisign", "-Vm", str(path), "-x", str(signature), *given], signature)


def _check_gpg(path: Path, signature: Path, key: str) -> None:
    wanted = key.replace(" ", "").upper()
    if not re.fullmatch("[0-9A-F]{40}", wanted):
        raise GgufError(f"--key is {key!r}; {signature.name} is by GPG, which needs a fingerprint of 40 digits")
    said = _run(["gpg", "--batch", "--status-fd", "1", "--verify", str(signature), str(path)], signature)
    # the last field is the primary key, the first the one that signed
    signers = re.findall(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]+) .*?([0-9A-F]+)$", said, re.MULTILINE)
    if not any(wanted in signer for signer in signers):
        raise GgufError(f"{signature}: signed by {', '.join(fpr for _, fpr in signers)}, not by {wanted}")


def _run(command: list[str], signature: Path) -> str:
    """Output of a program that checks a signature; raises GgufError if it is missing or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise GgufError(f"{command[0]} is needed to check {signature.name}; install it") from None
    if done.returncode != 0:
        said = " ".join(line for line in done.stderr.splitlines() + done.stdout.splitlines() if "[GNUPG:]" not in line)
        raise GgufError(f"{signature}: not a good signature: {said}")
    return done.stdout
