"""Download a checkpoint from the hub, on the commit the lock holds it to.

snakemake.wildcards.name: the checkpoint's name in sources.yaml; snakemake.params: `sources` and `lock`, its files.
snakemake.output[0]: its directory, which appears when complete; until then `<directory>.partial` collects the
files, survives an interruption and is gone on from.
Environment: HF_ENDPOINT, and a login (HF_TOKEN, HF_TOKEN_PATH, hf auth login) for a private or gated repository.
"""

import fnmatch
import logging
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from phase_twin.errors import UserError
from phase_twin.fetch import (
    BUSY,
    Backoff,
    Pin,
    Progress,
    Retry,
    bytes_present,
    check_disk,
    fetch,
    new_client,
    quiet_http,
)
from phase_twin.rule import run_rule
from phase_twin.sources import Checkpoint, find_source, load_sources
from phase_twin.sources_lock import LockedCheckpoint, LockedFile, held_checkpoint, lock_checkpoint, remedy
from prune_dual import GgufError
from prune_dual.transport import hub

log = logging.getLogger("phase_twin")

# of the top folder, and a name that is safe as a path
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
# weights, configuration, tokenizer, chat template, licence
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt", "LICENSE*")

# files on their way at once; they wait for the network, not for cores
WORKERS = 4

T = TypeVar("T")


def is_wanted(path: str) -> bool:
    """Whether a repository's file is part of what the converter reads."""
    return bool(PLAIN_NAME.match(path)) and any(fnmatch.fnmatchcase(path, glob) for glob in WANTED)


def call_hub(what: str, call: Callable[[], T]) -> T:
    """Call the hub's API, waiting out faults that pass; `what` names the repository in messages."""
    backoff = Backoff(what)
    while True:
        try:
            return call()
        except OfflineModeIsEnabled as error:
            raise UserError(f"{what}: HF_HUB_OFFLINE is set, so it cannot be looked up") from error
        except HfHubHTTPError as error:
            status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
            if status not in BUSY:
                repo, authorized = what.partition(" ")[0], bool(hub.token())
                raise UserError(f"{what}: {hub.refusal(repo, status, code, authorized=authorized)}") from error
            backoff.wait(Retry(hub.busy(status)))
        except httpx2.TransportError as error:
            backoff.wait(Retry(f"{type(error).__name__}: {error}"))


def resolve(api: HfApi, lock: str, name: str, wanted: Checkpoint) -> LockedCheckpoint:
    """What the lock holds the checkpoint to; on the first call, what the revision is now, which is recorded."""
    held = held_checkpoint(lock, name, wanted)
    if held is not None:
        return held
    what = f"{wanted.repo} at {wanted.revision}"
    commit = call_hub(what, lambda: api.model_info(wanted.repo, revision=wanted.revision).sha)
    if commit is None:
        raise UserError(f"{what}: the hub names no commit")
    log.info("%s is commit %s, recorded in %s", what, commit, lock)
    return lock_checkpoint(
        lock, name, LockedCheckpoint(repo=wanted.repo, revision=wanted.revision, commit=commit, files={})
    )


def pins_of_lock(lock: str, name: str, held: LockedCheckpoint) -> dict[str, Pin]:
    """What each file must be, by the lock."""
    return {
        path: Pin(file.bytes, file.sha256, said_by=lock, remedy=remedy(lock, "checkpoints", name))
        for path, file in held.files.items()
    }


def pins_of_hub(api: HfApi, held: LockedCheckpoint) -> dict[str, Pin]:
    """What each wanted file must be, by the hub's listing of the commit: SHA-256 of large files, blob id of others."""
    what = f"{held.repo} at {held.commit}"
    tree = call_hub(what, lambda: list(api.list_repo_tree(held.repo, revision=held.commit)))
    files = [entry for entry in tree if isinstance(entry, RepoFile) and is_wanted(entry.path)]
    names = {file.path for file in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{what}: not a checkpoint in safetensors format: config.json or *.safetensors is missing")
    return {
        file.path: Pin(
            file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            blob_id=None if file.lfs else file.blob_id,
            said_by="the hub's listing",
        )
        for file in files
    }


def download(held: LockedCheckpoint, pins: dict[str, Pin], folder: Path, token: str | None) -> dict[str, LockedFile]:
    """Bring the files of `pins` into `folder`, a few at a time; return their sizes and hashes."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    stop = threading.Event()
    files: dict[str, LockedFile] = {}
    total = sum(pin.bytes or 0 for pin in pins.values())
    with (
        new_client() as client,
        Progress(held.repo, total) as progress,
        ThreadPoolExecutor(max_workers=WORKERS) as pool,
    ):
        jobs = {
            pool.submit(
                fetch,
                client,
                hub.HubFile(held.repo, path, held.commit).url,
                folder / path,
                pin,
                headers=headers,
                progress=progress,
                stop=stop,
            ): path
            for path, pin in pins.items()
        }
        try:
            for job in as_completed(jobs):
                path, digest = jobs[job], job.result()
                files[path] = LockedFile(bytes=(folder / path).stat().st_size, sha256=digest)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return files


def download_checkpoint(sources: str, lock: str, name: str, output: Path) -> None:
    """Make `output` the complete, checked checkpoint `name`."""
    wanted = find_source(load_sources(sources).checkpoints, name, f"{sources}: checkpoints")
    # the hub is asked for the checkpoint and nothing else; with this unset the library looks up other things too
    constants.HF_HUB_DISABLE_TELEMETRY = True
    quiet_http()
    try:
        token = hub.token()
    except GgufError as error:
        raise UserError(str(error)) from error
    api = HfApi(endpoint=hub.endpoint(), token=token or False)
    held = resolve(api, lock, name, wanted)
    pins = pins_of_lock(lock, name, held) if held.files else pins_of_hub(api, held)

    partial = output.with_name(output.name + ".partial")
    if output.exists() and not partial.exists():
        output.rename(partial)  # a run by hand over a finished one: its files are checked and kept
    partial.mkdir(parents=True, exist_ok=True)
    missing = sum((pin.bytes or 0) - bytes_present(partial / path) for path, pin in pins.items())
    check_disk(partial, max(0, missing), held.repo)

    files = download(held, pins, partial, token)
    for stray in set(os.listdir(partial)) - files.keys():
        if (partial / stray).is_file():
            (partial / stray).unlink()
    if not held.files:
        lock_checkpoint(lock, name, held.model_copy(update={"files": files}))
    os.replace(partial, output)
    total = sum(file.bytes for file in files.values())
    log.info("%s: %d files, %.2f GiB, commit %s", output, len(files), total / 2**30, held.commit)


def main(snakemake: Any) -> None:
    """Map the rule's values."""
    files = str(snakemake.params.sources), str(snakemake.params.lock)
    download_checkpoint(*files, snakemake.wildcards.name, Path(snakemake.output[0]))


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
