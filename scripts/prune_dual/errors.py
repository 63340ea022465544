"""What every part of the tool raises, and how it speaks of bytes."""

MIB, GIB = 1 << 20, 1 << 30


class GgufError(Exception):
    """A file, or a request made of it, that is refused; one line naming file, tensor or key, and reason."""


def amount(nbytes: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.2f} MiB"
