"""Upload the release folder to a repository on the Hugging Face hub, as one commit.

Nothing goes up unless the folder is what its manifest says. An interrupted upload is taken up again: what the hub has
of the large files is not sent twice. Files of the repository that the release does not have are left alone.

snakemake.input: sums (the release's last file).
snakemake.output: record; the dry run has none and only prints what would go up.
snakemake.params: repo, private, message (of the commit).
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from phase_twin.card import format_size
from phase_twin.errors import UserError
from phase_twin.fetch import BUSY, quiet_http
from phase_twin.files import git_blob_id, sha256_file, write_text
from phase_twin.rule import Progress, run_rule
from prune_dual import MANIFEST_NAME, GgufError
from prune_dual.manifest.release import find_faults, read_manifest
from prune_dual.transport import hub

log = logging.getLogger("phase_twin")

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Upload:
    """One file of the release, and what the repository has under its name."""

    name: str
    bytes: int
    sha256: str
    there: str  # "new", "changed" or "same"


def require_verified(folder: Path) -> list[str]:
    """Return the names of what a release consists of.

    Raises
    ------
    UserError
        if a file is missing or not what the manifest says.
    """
    manifest = read_manifest(folder)
    with Progress("verify") as bar:
        faults = find_faults(folder, manifest, present=False, progress=bar.show)
    if faults:
        raise UserError(f"{folder} is not uploaded: {faults[0]} ({len(faults)} in all); make the release again")
    signatures = [path.name for path in sorted(folder.glob(f"{MANIFEST_NAME}.*"))]
    return [*(entry.name for entry in manifest.files), MANIFEST_NAME, *signatures, SUMS]


def compare(folder: Path, names: list[str], remote: dict[str, RepoFile]) -> list[Upload]:
    """Say of each file what the repository has; large files are known there by SHA-256, others by their git blob."""
    known = dict(reversed(line.split("  ", 1)) for line in (folder / SUMS).read_text().splitlines())
    uploads = []
    for name in names:
        path = folder / name
        digest = known.get(name) or sha256_file(path)
        there = "new"
        if file := remote.get(name):
            same = digest == file.lfs.sha256 if file.lfs else git_blob_id(path) == file.blob_id
            there = "same" if same else "changed"
        uploads.append(Upload(name, path.stat().st_size, digest, there))
    return uploads


def remote_files(api: HfApi, repo: str) -> dict[str, RepoFile] | None:
    """The files of the repository by name; None if there is no such repository, or none that the token may see."""
    try:
        return {file.path: file for file in api.list_repo_tree(repo, recursive=True) if isinstance(file, RepoFile)}
    except RepositoryNotFoundError:
        return None


def explain(error: Exception, repo: str) -> UserError:
    """What the hub refused, in one line, without the addresses and request ids that only its makers need."""
    if isinstance(error, HfHubHTTPError):
        status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
        if status not in BUSY:
            return UserError(hub.refusal(repo, status, code, authorized=True, writing=True))
        what = hub.busy(status)
    else:
        what = " ".join(str(error).split())
    return UserError(f"uploading to {repo} failed: {what}; run again to go on")


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    repo, folder = snakemake.params.repo, Path(snakemake.input.sums).parent
    dry_run = not snakemake.output
    try:
        token = hub.token()
    except GgufError as error:
        raise UserError(str(error)) from error
    if not token and not dry_run:
        raise UserError(f"there is no token of the hub that may write to {repo}: {hub.LOG_IN}")
    quiet_http()
    names = require_verified(folder)
    api = HfApi(endpoint=hub.endpoint(), token=token or False)
    try:
        remote = remote_files(api, repo)
        plan = compare(folder, names, remote or {})
        changes = [upload for upload in plan if upload.there != "same"]
        log.info("%s%s:", api.endpoint, f"/{repo}" + (" (to be made)" if remote is None else ""))
        for upload in plan:
            log.info("%8s  %12s  %s", upload.there, format_size(upload.bytes), upload.name)
        log.info("%d of %d files to upload, %s", len(changes), len(plan), format_size(sum(u.bytes for u in changes)))
        if dry_run:
            return
        api.create_repo(repo, private=snakemake.params.private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=u.name, path_or_fileobj=folder / u.name) for u in changes]
        commit = api.repo_info(repo).sha
        if operations:
            commit = api.create_commit(repo, operations, commit_message=snakemake.params.message).oid
        left = [u.name for u in compare(folder, names, remote_files(api, repo) or {}) if u.there != "same"]
    except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:  # the last: a large file, given up
        raise explain(error, repo) from error
    if left:
        raise UserError(f"{repo} does not hold what was uploaded: {left[0]} ({len(left)} in all); run again")
    record = {"repo": repo, "commit": commit, "files": [asdict(upload) for upload in plan]}
    write_text(snakemake.output.record, json.dumps(record, indent=2) + "\n")
    log.info("%s/%s is the release now, commit %s", api.endpoint, repo, commit)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
