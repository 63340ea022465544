"""SHA-256 of a GGUF's tensors: of a file as it is, and of one just written beside what a manifest says."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..container.hashing import sha256_span
from ..container.layout import Layout, same_head
from ..container.reader import Gguf
from ..errors import GgufError
from ..files import CHUNK, forget_cached
from ..progress import Progress
from .content import TensorHash


def hash_gguf(gguf: Gguf, progress: Progress | None = None) -> tuple[str, dict[str, str]]:
    """SHA-256 of a local GGUF file and of each of its tensors, by name, reading it once in constant memory.

    Raises
    ------
    GgufError
        if the file cannot be read or changes its size.
    """
    whole, hashes, done = hashlib.sha256(), {}, 0
    path = Path(str(gguf.path))
    try:
        with open(path, "rb", buffering=0) as file:
            total = os.fstat(file.fileno()).st_size

            def walk(end: int, digest: Any = None) -> None:
                nonlocal done
                while done < end:
                    block = file.read(min(CHUNK, end - done))
                    if not block:
                        raise GgufError(f"{path}: became shorter while it was read")
                    whole.update(block)
                    if digest:
                        digest.update(block)
                    done += len(block)
                    if progress:
                        progress(done, total)

            for tensor in gguf.tensors:  # in the order of their data: the reader refuses any other
                walk(tensor.data.offset)
                digest = hashlib.sha256()
                walk(tensor.data.offset + tensor.nbytes, digest)
                hashes[tensor.name] = digest.hexdigest()
            walk(total)
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror}") from error
    return whole.hexdigest(), hashes


def verify_copy(
    path: Path,
    layout: Layout,
    entries: Sequence[Sequence[TensorHash]] | None = None,
    progress: Progress | None = None,
    *,
    with_source: bool = True,
) -> None:
    """Read the written file at `path` back and compare each tensor with its source, or each of those it is woven of.

    Parameters
    ----------
    entries
        the manifest's, of the sources of each tensor, which are compared too.
    with_source
        whether the source is here to be read; without it there must be `entries`.

    Raises
    ------
    GgufError
        naming the first tensor that differs.
    """
    forget_cached(path)
    total, done = (1 + with_source) * sum(tensor.nbytes for tensor in layout.tensors), 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    for index, (tensor, offset) in enumerate(layout.placed):
        for part, (written, span) in enumerate(zip(tensor.within(path, offset), tensor.sources, strict=True)):
            found = sha256_span(written, count)
            source = sha256_span(span, count) if with_source else found
            if entries and source != entries[index][part].sha256:
                raise wrong_hash(entries[index][part], source, str(span.path if with_source else path))
            if found != source:
                raise GgufError(f"{path}: tensor {tensor.name!r} does not have the bytes it has in {span.path}")
    if not same_head(path, layout):
        raise GgufError(f"{path}: its keys do not have the bytes they were written with")


def wrong_hash(entry: TensorHash, found: str, where: str) -> GgufError:
    """The error for a tensor of the twin at `where` that is not what the manifest says."""
    return GgufError(
        f"{where}: tensor {entry.name!r}: SHA-256 is {found}, but the manifest says {entry.sha256}: "
        "the file is damaged, or the manifest is of another version of it"
    )
