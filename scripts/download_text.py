"""Download a text, or the member of a zip archive that holds it, and check it.

snakemake.wildcards.name: the text's name in sources.yaml; snakemake.params: `sources` and `lock`, its files.
snakemake.output[0]: the text. `<output>.download` and its `.part` collect the bytes and survive an interruption.
"""

import logging
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from phase_twin.errors import UserError
from phase_twin.fetch import Pin, Progress, WrongContent, fetch, new_client, shown
from phase_twin.files import atomic_output
from phase_twin.rule import run_rule
from phase_twin.sources import Text, at_endpoint, find_source, load_sources
from phase_twin.sources_lock import LockedText, held_text, lock_text, remedy

log = logging.getLogger("phase_twin")


def pin_of(sources: str, lock: str, name: str, text: Text, held: LockedText | None) -> Pin:
    """What the text must be: by sources.yaml where that says it, else by the lock, else not known."""
    by_lock = {"said_by": lock, "remedy": remedy(lock, "texts", name)}
    by_config = {
        "said_by": sources,
        "remedy": f"the file at {shown(text.url)} is another one now: find the old one, or correct texts.{name}",
    }
    if held is not None and text.sha256 not in (None, held.sha256):
        raise UserError(
            f"{sources} says texts.{name} has SHA-256 {text.sha256}, but {lock} holds {held.sha256}; "
            + by_lock["remedy"]
        )
    if text.sha256 is None and held is not None:
        return Pin(held.bytes, held.sha256, **by_lock)
    return Pin(text.bytes, text.sha256, **by_config)


def extract(archive: Path, member: str, output: Path) -> None:
    """Write one member of a zip archive to `output`, in constant memory."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, open(output, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except KeyError:
        raise UserError(f"the archive has no member {member!r}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"not a readable zip archive: {error}") from error


def download_text(sources: str, lock: str, name: str, output: Path) -> None:
    """Make `output` the checked text `name`."""
    text = find_source(load_sources(sources).texts, name, f"{sources}: texts")
    held = held_text(lock, name, text)
    pin = pin_of(sources, lock, name, text, held)
    url = at_endpoint(text.url)
    raw = output.with_name(output.name + ".download")
    raw.parent.mkdir(parents=True, exist_ok=True)
    with new_client() as client, Progress(name, None if text.member else pin.bytes) as progress:
        # of an archive nothing is known beforehand: what counts is its member
        fetch(client, url, raw, Pin() if text.member else pin, name=f"texts.{name}", progress=progress)
    try:
        with atomic_output(output) as partial:
            if text.member:
                extract(raw, text.member, partial)
            else:
                shutil.copyfile(raw, partial)
            digest = pin.check(partial, f"texts.{name}")
            size = partial.stat().st_size
            if size == 0:
                raise UserError("the text is empty")
            if pin.sha256 is None:
                entry = LockedText(url=text.url, member=text.member, bytes=size, sha256=digest)
                now = lock_text(lock, name, entry)
                if now.sha256 != digest:
                    raise UserError(f"another run at the same time got SHA-256 {now.sha256}, this one {digest}")
                log.info("texts.%s: SHA-256 %s, recorded in %s", name, digest, lock)
    except WrongContent:
        raise
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"texts.{name} from {shown(url)}: {error}") from error
    finally:
        raw.unlink(missing_ok=True)
    log.info("%s: %d bytes, SHA-256 %s", output, size, digest)


def main(snakemake: Any) -> None:
    """Map the rule's values."""
    files = str(snakemake.params.sources), str(snakemake.params.lock)
    download_text(*files, snakemake.wildcards.name, Path(snakemake.output[0]))


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
