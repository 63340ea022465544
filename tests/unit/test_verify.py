"""prune-dual verify, and signatures."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gguf_files import small_twin
from make_release import write_hashes
from phase_twin.config import Signing
from phase_twin.errors import UserError
from phase_twin.signing import PASSWORD, require_signer, sign
from prune_dual import GgufError, Twin, hash_gguf
from prune_dual.cli import main

TWIN = "some-twin.gguf"


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "a release"
    (folder / "build").mkdir(parents=True)
    small_twin(folder / TWIN, groups=2)
    (folder / "README.md").write_text("card\n")
    (folder / "build/build.sh").write_text("#!/bin/sh\n")
    twin = Twin.read(folder / TWIN)
    write_hashes(folder, twin, *hash_gguf(twin.gguf), None)
    return folder


def verify(capfd, *arguments: object) -> tuple[int, str, str]:
    code = main(["verify", *map(str, arguments)])
    said = capfd.readouterr()
    return code, said.out, said.err


def test_a_good_release(release, capfd):
    (release / "mine.gguf").write_bytes(b"what the user made")
    code, out, err = verify(capfd, release)
    assert (code, err) == (0, "")
    assert f"{release}: 3 of 3 files are as released" in out


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_each_fault_is_named(release, capfd):
    (release / "build/build.sh").unlink()
    flip(release / "README.md", 0)
    flip(release / TWIN, (release / TWIN).stat().st_size - 1)
    code, _, err = verify(capfd, release)
    assert code == 1
    assert err.splitlines() == [
        "prune-dual: build/build.sh: missing",
        "prune-dual: README.md: its SHA-256 is not that of the manifest; fetch it again",
        f"prune-dual: {TWIN}: 1 of 5 tensors are damaged, the first is 'blk.1.ffn_gate_exps.weight.v1'; fetch it again",
        f"prune-dual: {release}: 3 of 3 files are not as released",
    ]


def test_a_fault_outside_of_the_tensors(release, capfd):
    flip(release / TWIN, 8)
    assert "SHA-256 is not that of the manifest" in verify(capfd, release)[2]


def test_a_file_that_is_too_short(release, capfd):
    size = (release / TWIN).stat().st_size
    os.truncate(release / TWIN, size - 1)
    assert f"{TWIN}: has {size - 1} bytes, the manifest says {size}" in verify(capfd, release)[2]


def test_only_what_is_there(release, capfd):
    (release / TWIN).unlink()
    assert verify(capfd, release)[0] == 1
    code, out, _ = verify(capfd, release, "--present")
    assert code == 0
    assert "2 of 3 files" in out


def test_nothing_checked_is_not_good(release, capfd):
    for name in (TWIN, "README.md", "build/build.sh"):
        (release / name).unlink()
    code, out, err = verify(capfd, release, "--present")
    assert (code, out) == (1, "")
    assert err == f"prune-dual: {release}: of the 3 files of the manifest none is there, so none was checked\n"


@pytest.mark.parametrize("offset", [-5, 10**30])
def test_a_place_that_no_file_has(release, capfd, offset):
    flip(release / TWIN, (release / TWIN).stat().st_size - 1)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["twin"]["tensors"][0]["offset"] = offset
    (release / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = verify(capfd, release)
    assert code == 1
    assert err.endswith(f": 'offset' is {offset}, which no file has\n")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_names_nothing_outside(release, capfd, name):
    manifest = release / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"build/build.sh"', f'"{name}"'))
    code, _, err = verify(capfd, release)
    assert code == 1
    assert "is not a name within the release" in err


def test_a_folder_without_a_manifest(tmp_path, capfd):
    code, _, err = verify(capfd, tmp_path)
    assert code == 1
    assert "manifest.json: no such file; name the folder of a release" in err
    assert len(err.splitlines()) == 1


# ---------------------------------------------------------------- signatures

COMMENT = "a comment"


def minisign_key(folder: Path) -> Signing:
    command = ["minisign", "-G", "-W", "-p", folder / "public", "-s", folder / "secret"]
    subprocess.run(command, check=True, capture_output=True)
    return Signing(minisign=str(folder / "secret"), public_key=(folder / "public").read_text().split()[-1])


@pytest.mark.skipif(not shutil.which("minisign"), reason="minisign is not installed")
def test_minisign(release, tmp_path, capfd):
    signing = minisign_key(tmp_path)
    manifest = release / "manifest.json"
    signature = sign(manifest, signing, COMMENT)
    first = signature.read_bytes()
    assert sign(manifest, signing, COMMENT).read_bytes() == first
    for key in (signing.identity, tmp_path / "public"):
        code, out, _ = verify(capfd, release, "--key", key)
        assert (code, out.splitlines()[-1]) == (0, f"manifest.json.minisig is a good signature by {key}")
    code, out, _ = verify(capfd, release)
    assert (code, out.splitlines()[-1].split(":")[0]) == (0, "manifest.json.minisig was not checked")
    (tmp_path / "other").mkdir()
    other = minisign_key(tmp_path / "other")
    assert "not a good signature" in verify(capfd, release, "--key", other.identity)[2]
    manifest.write_text(manifest.read_text().replace(hashlib.sha256(b"card\n").hexdigest(), "0" * 64))
    assert "not a good signature" in verify(capfd, release, "--key", signing.identity)[2]
    # a key pair that does not belong together is noticed when signing, not by the users
    with pytest.raises(GgufError, match="not a good signature"):
        sign(manifest, Signing(minisign=signing.minisign, public_key=other.public_key), COMMENT)


def test_the_password_of_a_key_comes_from_the_environment(release, tmp_path, monkeypatch):
    """With a fake minisign: the real one takes ten seconds to make a key of a password."""
    fake = tmp_path / "minisign"
    fake.write_text('#!/bin/sh\nread -r word; echo "$word" >&2; exit 2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv(PASSWORD, "a password")
    secret = tmp_path / "secret"
    signing = Signing(minisign=str(secret), public_key=f"RW{54 * 'A'}")
    with pytest.raises(UserError, match=rf"^release\.sign\.minisign: there is no file {secret}$"):
        require_signer(signing)
    secret.touch()
    require_signer(signing)
    with pytest.raises(UserError, match=r"minisign did not sign manifest\.json: a password"):
        sign(release / "manifest.json", signing, COMMENT)


@pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not installed")
def test_gpg(release, tmp_path, monkeypatch, capfd):
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    generate = [
        "gpg",
        "--batch",
        "--passphrase",
        "",
        "--quick-gen-key",
        "someone@example.org",
        "ed25519",
        "sign",
        "never",
    ]
    subprocess.run(generate, check=True, capture_output=True)
    keys = subprocess.run(["gpg", "--list-keys", "--with-colons"], capture_output=True, text=True).stdout
    fingerprint = next(line.split(":")[9] for line in keys.splitlines() if line.startswith("fpr"))
    signing = Signing(gpg=fingerprint)
    sign(release / "manifest.json", signing, COMMENT)
    sign(release / "manifest.json", signing, COMMENT)  # over the first
    code, out, _ = verify(capfd, release, "--key", fingerprint)
    assert (code, out.splitlines()[-1]) == (0, f"manifest.json.asc is a good signature by {fingerprint}")
    assert f"not by {'0' * 40}" in verify(capfd, release, "--key", "0" * 40)[2]
    assert "fingerprint of 40 digits" in verify(capfd, release, "--key", fingerprint[-8:])[2]
    flip(release / "manifest.json", 5)
    assert verify(capfd, release, "--key", fingerprint)[0] == 1
    require_signer(signing)
    with pytest.raises(UserError, match=r"^release\.sign\.gpg: the keyring has no secret key A{40}$"):
        require_signer(Signing(gpg="A" * 40))
    subprocess.run(["gpgconf", "--kill", "all"], check=False)


def test_an_unsigned_release_has_no_good_signature(release, capfd):
    code, _, err = verify(capfd, release, "--key", "RWQ")
    assert code == 1
    assert "manifest.json: is not signed" in err


def test_a_missing_program_is_named(release, capfd, monkeypatch, tmp_path):
    (release / "manifest.json.minisig").write_text("untrusted comment\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "minisign is needed to check manifest.json.minisig; install it" in verify(capfd, release, "--key", "RWQ")[2]
    with pytest.raises(UserError, match=r"release\.sign needs gpg"):
        sign(release / "manifest.json", Signing(gpg="A" * 40), COMMENT)
