"""Result files: JSON that says where it comes from."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .engine import SOURCE_MANIFEST, engine_identity
from .errors import UserError
from .files import DIGEST, recorded_digest, sha256_file, write_text
from .machine import describe_machine
from .version import VERSION

TOOLS = ("snakemake", "gguf", "numpy")
MADE_BY = "made_by"


def hash_inputs(paths: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each input file; of programs the engine's patches tell more."""
    files = [path for path in paths if os.path.isfile(path) and not os.access(path, os.X_OK)]
    return {path: recorded_digest(path) or sha256_file(path) for path in files if not path.endswith(DIGEST)}


def made_by(snakemake: Any) -> dict[str, Any]:
    """Return versions, hashes and the machine of the job that `snakemake` stands for."""
    settings = json.dumps(snakemake.config, sort_keys=True)
    return {
        "pipeline": VERSION,
        "engine": engine_identity(SOURCE_MANIFEST),
        "config_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "inputs": hash_inputs(snakemake.input),
        "tools": {"python": platform.python_version(), **{name: version(name) for name in TOOLS}},
        "machine": describe_machine(),
    }


def write_result(path: str, result: dict[str, Any] | list[dict[str, Any]], snakemake: Any) -> None:
    """Write an object, or the rows of a table, with what made it."""
    content = {"rows": result} if isinstance(result, list) else result
    write_text(path, json.dumps(content | {MADE_BY: made_by(snakemake)}, indent=2) + "\n")


def read_result(path: str | os.PathLike[str]) -> Any:
    """Return what was given to `write_result`, or what another JSON file holds.

    Raises
    ------
    UserError
        if the file is no JSON.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it and run again, it is made anew") from error
    if isinstance(content, dict):
        content.pop(MADE_BY, None)
        if content.keys() == {"rows"}:
            return content["rows"]
    return content
