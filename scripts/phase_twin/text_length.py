"""Whether a text can have the chunks that the configuration asks for, told before anything is made.

Only its bytes are counted here; `run_facts.run_over_text` has the chunks that the engine found in it.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path

from .config import Config
from .errors import UserError

# llama-imatrix and llama-perplexity take no less
MIN_CHUNKS = 2


@dataclass(frozen=True)
class TextUse:
    """What a run takes of a text, and the keys of the configuration that say so."""

    corpus: str
    corpus_key: str
    n_ctx: int
    n_ctx_key: str
    chunks: int | None
    """None: all there are."""
    chunks_key: str
    shared: bool = False
    """Whether jobs share the chunks, so that there must be so many."""


def text_uses(config: Config) -> list[TextUse]:
    """What a run takes of which text."""
    imatrix, quality = config.imatrix, config.bench.quality
    corpus, length = (imatrix.corpus, "imatrix.corpus"), (quality.n_ctx, "bench.quality.n_ctx")
    found = [
        TextUse(*corpus, imatrix.n_ctx, "imatrix.n_ctx", imatrix.chunks, "imatrix.chunks", imatrix.parts > 1),
        TextUse(
            quality.corpus, "bench.quality.corpus", *length, quality.chunks, "bench.quality.chunks", quality.parts > 1
        ),
    ]
    if config.rank.method == "measured":
        found.append(TextUse(*corpus, *length, config.rank.chunks, "rank.chunks"))
    return found


def not_utf8(path: Path) -> str | None:
    """What to warn of where a text is in another encoding: the engine takes what it cannot read for one and the same.

    A character that is cut at the end is none.
    """
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            try:
                nul = decoder.decode(piece).find("\0") >= 0
            except UnicodeDecodeError:
                nul = True
            if nul:
                return f"{path}: is not UTF-8 text, near byte {start}; save it as UTF-8, or it is measured on garbage"
            start += len(piece)
    return None


def look_at_text(path: Path, use: TextUse) -> str | None:
    """Hold a text to what is taken of it; a token is a byte at the least, but for one at the start.

    Returns
    -------
    str or None
        what to warn of.

    Raises
    ------
    UserError
        if nothing can be measured on it, or jobs have not the chunks that they share.
    """
    if not path.is_file():
        raise UserError(f"{path}: is no file; give {use.corpus_key} a text")
    nbytes = path.stat().st_size
    most = (nbytes + 1) // use.n_ctx
    if most < MIN_CHUNKS:
        raise UserError(
            f"{path}: {nbytes} bytes are less than {MIN_CHUNKS} chunks of {use.n_ctx} tokens; give {use.corpus_key} "
            f"a longer text, or set a smaller {use.n_ctx_key}"
        )
    if use.chunks is None or most >= use.chunks:
        return None
    asked = f"{path}: {nbytes} bytes are {most} chunks of {use.n_ctx} tokens at the most, {use.chunks_key} asks for "
    if use.shared:
        raise UserError(f"{asked}{use.chunks}, which jobs share: lower it, or give {use.corpus_key} a longer text")
    return f"{asked}{use.chunks}: the whole text will be taken"
