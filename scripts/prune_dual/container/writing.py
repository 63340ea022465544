"""Write GGUF files by copying ranges of others, or weaving blocks of several."""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from ..errors import MIB, GgufError
from ..files import CHUNK, check_output, check_space, partial_output, partial_path, write_all
from ..progress import Progress
from .entries import DEFAULT_ALIGNMENT, Kv, Span, Tensor, Woven
from .layout import Layout, lay_out
from .weaving import woven_blocks

READ = MIB  # what passes through our memory: more is slower, as it leaves the processor's cache


def write_gguf(
    path: str | os.PathLike[str],
    kv: Iterable[Kv],
    tensors: Iterable[Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    force: bool = False,
    progress: Progress | None = None,
    check: Callable[[Path, Layout], None] | None = None,
) -> int:
    """Write a GGUF file, streaming keys and tensors from where they are, and return its size in bytes.

    The file appears under its name only when complete. Memory use does not depend on its size: ranges go from file to
    file within the kernel, or by chunks, as woven ones always do; mapped memory would count as ours.

    Parameters
    ----------
    tensors
        in the order in which their data is to stand.
    force
        replace an existing file; never one that is read here.
    progress
        called with (bytes done, bytes in all).
    check
        called with the complete file, before it gets its name, and its layout; what it raises prevents that.

    Raises
    ------
    GgufError
        if the output exists or is an input, the disk is too full, or reading or writing fails.
    """
    path, layout = Path(path), lay_out(kv, tensors, alignment)
    spans = [part for part in layout.head if isinstance(part, Span)]
    spans += [span for tensor in layout.tensors for span in tensor.sources]
    check_output(path, {span.path for span in spans}, force)
    try:
        with partial_output(path) as out, ExitStack() as stack:
            check_space(path, layout.nbytes, partial_path(path))
            sources: dict[Path, BinaryIO] = {}
            states: dict[Path, tuple[int, int]] = {}

            def source(span: Span) -> BinaryIO:
                if span.path not in sources:
                    sources[span.path] = stack.enter_context(open(span.path, "rb", buffering=0))
                    states[span.path] = _state(sources[span.path])
                return sources[span.path]

            def copy(data: Span | Woven) -> None:
                if isinstance(data, Span):
                    _copy(source(data), data, out, progress, layout.nbytes)
                else:
                    _weave([source(strand.span) for strand in data.strands], data, out, progress, layout.nbytes)

            for part in layout.head:
                if isinstance(part, Span):
                    copy(part)
                else:
                    write_all(out, part)
            for tensor, offset in layout.placed:
                out.seek(offset)
                copy(tensor.data)
            out.truncate(layout.nbytes)
            for read, file in sources.items():
                if _state(file) != states[read]:
                    raise GgufError(f"{read}: changed while it was copied; run again when nothing writes to it")
            if check:
                os.fsync(out.fileno())
                check(Path(out.name), layout)
    except OSError as error:
        raise GgufError(f"{path}: cannot be written: {error.strerror or error}") from error
    return layout.nbytes


def _state(file: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def _copy(source: BinaryIO, span: Span, out: BinaryIO, progress: Progress | None, total: int) -> None:
    """Append `span` of `source` to `out`."""
    within_kernel = list(KERNEL_COPIES)
    done = 0
    while done < span.nbytes:
        want = min(CHUNK, span.nbytes - done)
        copied = 0
        if within_kernel:
            try:
                copied = within_kernel[0](source.fileno(), out.fileno(), span.offset + done, want)
            except OSError:
                within_kernel.pop(0)  # another file system or an old kernel; anything worse shows below
                continue
        if not copied:
            source.seek(span.offset + done)
            data = source.read(min(READ, want))
            if not data:
                raise GgufError(f"{span.path}: became shorter while it was copied")
            write_all(out, data)
            copied = len(data)
        done += copied
        if progress:
            progress(out.tell(), total)


def _weave(sources: list[BinaryIO], woven: Woven, out: BinaryIO, progress: Progress | None, total: int) -> None:
    """Append the blocks of `woven`, whose strands are in `sources`, to `out`."""
    for blocks in woven_blocks(sources, woven):
        write_all(out, memoryview(blocks).cast("B"))
        if progress:
            progress(out.tell(), total)


def _copy_file_range(source: int, out: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(source, out, nbytes, offset_src=offset)


def _sendfile(source: int, out: int, offset: int, nbytes: int) -> int:
    return os.sendfile(out, source, offset, nbytes)


# best first; each appends to `out` and returns how much
KERNEL_COPIES = [
    copy for name, copy in (("copy_file_range", _copy_file_range), ("sendfile", _sendfile)) if hasattr(os, name)
]
