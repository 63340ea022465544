"""The command `verify`: whether a downloaded release is what its manifest says, and who signed that."""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .container import Span
from .errors import GgufError, amount
from .hashing import sha256_span
from .manifest import MANIFEST_NAME, MAX_NBYTES, FileHash, Manifest
from .source import read_small
from .writing import Progress, live_progress


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a release folder.

    Raises
    ------
    GgufError
        if it is missing, unreadable, or lists a file outside of the folder.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise GgufError(f"{path}: no such file; name the folder of a release")
    manifest = Manifest.parse(read_small(path, MAX_NBYTES), str(path))
    for entry in manifest.files:
        name = PurePosixPath(entry.name)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.name or not name.parts:
            raise GgufError(f"{path}: {entry.name!r} is not a name within the release")
    return manifest


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
    given = ["-p", key] if Path(key).is_file() else ["-P", key]
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


def find_faults(folder: Path, manifest: Manifest, *, present: bool, progress: Progress | None = None) -> list[str]:
    """Compare the files with the manifest; return one line for each that is missing or differs.

    Parameters
    ----------
    present
        look only at the files that are there.
    """
    found = [(entry, folder / entry.name) for entry in manifest.files]
    faults = [f"{entry.name}: missing" for entry, path in found if not path.is_file() and not present]
    found = [(entry, path) for entry, path in found if path.is_file()]
    total, done = sum(entry.bytes for entry, _ in found), 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    for entry, path in found:
        size = path.stat().st_size
        if size != entry.bytes:
            faults.append(f"{entry.name}: has {size} bytes, the manifest says {entry.bytes}; fetch it again")
        elif sha256_span(Span(path, 0, size), count) != entry.sha256:
            faults.append(f"{entry.name}: {_what_differs(path, entry, manifest)}; fetch it again")
    return faults


def _what_differs(path: Path, entry: FileHash, manifest: Manifest) -> str:
    if entry.name == manifest.twin:
        wrong = [t.name for t in manifest.tensors if sha256_span(Span(path, t.offset, t.nbytes)) != t.sha256]
        if wrong:
            return f"{len(wrong)} of {len(manifest.tensors)} tensors are damaged, the first is {wrong[0]!r}"
    return "its SHA-256 is not that of the manifest"


def run_verify(argv: Sequence[str]) -> None:
    """Run `prune-dual verify`; raises GgufError if something is not as released."""
    parser = argparse.ArgumentParser(
        prog="prune-dual verify", description="Check a downloaded release: every file against manifest.json."
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the release (beside this program)")
    parser.add_argument("--present", action="store_true", help="check the files that are there; none is missed")
    parser.add_argument(
        "--key", help="who must have signed it: a minisign public key or its file, or a GPG fingerprint"
    )
    args = parser.parse_args(argv)
    folder = args.folder or Path(sys.argv[0]).resolve().parent
    manifest = read_manifest(folder)
    signed = check_signature(folder, args.key)
    with live_progress() as progress:
        faults = find_faults(folder, manifest, present=args.present, progress=progress)
    for fault in faults:
        print(f"prune-dual: {fault}", file=sys.stderr)
    if faults:
        raise GgufError(f"{folder}: {len(faults)} of {len(manifest.files)} files are not as released")
    checked = [entry for entry in manifest.files if (folder / entry.name).is_file()]
    size = amount(sum(entry.bytes for entry in checked))
    print(f"{folder}: {len(checked)} of {len(manifest.files)} files are as released, {size}")
    if signed:
        print(signed)
