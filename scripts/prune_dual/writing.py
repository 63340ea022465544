"""Write GGUF files by copying ranges of others."""

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from .container import DEFAULT_ALIGNMENT, Kv, Span, Tensor, encode_str, padded
from .errors import MIB, GgufError, amount

CHUNK = 8 * MIB

Progress = Callable[[int, int], None]


def write_gguf(
    path: str | os.PathLike[str],
    kv: Iterable[Kv],
    tensors: Iterable[Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a GGUF file, streaming keys and tensors from where they are, and return its size in bytes.

    The file appears under its name only when complete. Memory use does not depend on its size: ranges go from file to
    file within the kernel, or by chunks; mapped memory would count as ours.

    Parameters
    ----------
    tensors
        in the order in which their data is to stand.
    force
        replace an existing file; never one that is read here.
    progress
        called with (bytes done, bytes in all).

    Raises
    ------
    GgufError
        if the output exists or is an input, the disk is too full, or reading or writing fails.
    """
    path, kv, tensors = Path(path), list(kv), list(tensors)
    infos, offset = bytearray(), 0
    for tensor in tensors:
        infos += encode_str(tensor.name)
        infos += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, offset)
        offset += padded(tensor.nbytes, alignment)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kv))
    data_start = padded(len(head) + sum(entry.nbytes for entry in kv) + len(infos), alignment)
    total = data_start + offset
    parts = [head, *(entry.raw for entry in kv), bytes(infos), None]
    for tensor in tensors:
        parts += [tensor.data, None]
    _check_output(path, {part.path for part in parts if isinstance(part, Span)}, total, force)
    try:
        with _partial(path) as out, ExitStack() as stack:
            sources: dict[Path, BinaryIO] = {}
            for part in parts:
                if part is None:
                    out.seek(padded(out.tell(), alignment))
                elif isinstance(part, Span):
                    if part.path not in sources:
                        sources[part.path] = stack.enter_context(open(part.path, "rb", buffering=0))
                    _copy(sources[part.path], part, out, progress, total)
                else:
                    _write_all(out, part)
            out.truncate(total)
    except OSError as error:
        raise GgufError(f"{path}: cannot be written: {error.strerror or error}") from error
    return total


def _check_output(path: Path, sources: Iterable[Path], nbytes: int, force: bool) -> None:
    if not path.parent.is_dir():
        raise GgufError(f"{path}: the folder {path.parent} does not exist")
    if path.exists():
        for source in sources:
            if path.samefile(source):
                raise GgufError(f"{path}: is the input {source}; choose another name for the output")
        if path.is_dir():
            raise GgufError(f"{path}: is a folder; name a file")
        if not force:
            raise GgufError(f"{path}: exists already; --force replaces it")
    free = shutil.disk_usage(path.parent).free
    if nbytes > free:
        raise GgufError(f"{path}: needs {amount(nbytes)}, {path.parent} has {amount(free)} free")


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """Yield an unbuffered file beside `path` that is renamed to it at the end, or removed on any failure."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb", buffering=0) as out:
            yield out
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: BinaryIO, span: Span, out: BinaryIO, progress: Progress | None, total: int) -> None:
    """Append `span` of `source` to `out`."""
    in_kernel = hasattr(os, "copy_file_range")
    done = 0
    while done < span.nbytes:
        want = min(CHUNK, span.nbytes - done)
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source.fileno(), out.fileno(), want, offset_src=span.offset + done)
            except OSError:
                in_kernel = False  # another file system or an old kernel; anything worse shows below
        if not copied:
            source.seek(span.offset + done)
            data = source.read(want)
            if not data:
                raise GgufError(f"{span.path}: became shorter while it was copied")
            _write_all(out, data)
            copied = len(data)
        done += copied
        if progress:
            progress(out.tell(), total)


def _write_all(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
