"""Where documents begin in a text that was tokenized into chunks, by the text itself."""

import logging
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prune_dual import Gguf

from .errors import UserError

log = logging.getLogger("phase_twin")


def _byte_of() -> dict[str, int]:
    """How vocabularies of byte pairs write bytes: those that print as they are, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}


BYTE_OF = _byte_of()


def read_tokens(logits: str | Path) -> np.ndarray:
    """Tokens of the text that a file of reference logits is over, [chunks, n_ctx]."""
    with open(logits, "rb") as file:
        head = file.read(20)
        if len(head) < 20 or not head.startswith(b"_logits_"):
            raise UserError(f"{logits}: no logits of llama-perplexity; remove it and run again, it is made anew")
        n_ctx, _, chunks = struct.unpack_from("<III", head, 8)
        return np.fromfile(file, "<i4", chunks * n_ctx).reshape(chunks, n_ctx)


def read_vocabulary(model: str | Path) -> list[bytes] | None:
    """Bytes of each token of a GGUF; None where its vocabulary is no byte-level one."""
    kv = Gguf.read(model).kv
    if "tokenizer.ggml.model" not in kv or kv["tokenizer.ggml.model"].value != "gpt2":
        return None
    # tokens with a meaning of their own may hold other characters
    return [
        bytes(BYTE_OF[char] for char in token) if BYTE_OF.keys() >= set(token) else token.encode()
        for token in kv["tokenizer.ggml.tokens"].value
    ]


def chunk_documents(tokens: np.ndarray, vocabulary: Sequence[bytes], pattern: str) -> np.ndarray:
    """Number the documents and say to which each chunk belongs: that of the middle of what is predicted.

    Parameters
    ----------
    tokens
        [chunks, n_ctx]; predicted is the second half of each chunk.
    pattern
        regular expression of the lines that begin a document.

    Returns
    -------
    numpy.ndarray
        [chunks], ascending, from 0 on.
    """
    pieces = [vocabulary[token] for token in tokens.ravel()]
    starts = [match.start() for match in re.finditer(pattern.encode(), b"".join(pieces), re.MULTILINE)]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    chunks, n_ctx = tokens.shape
    middles = offsets[np.arange(chunks) * n_ctx + 3 * n_ctx // 4]
    return np.unique(np.searchsorted(starts, middles, side="right"), return_inverse=True)[1].astype(np.int32)


def documents_of(logits: str | Path, model: str | Path, pattern: str | None) -> np.ndarray | None:
    """Documents of the chunks in a file of reference logits; None where no pattern is given, or none can be found."""
    if pattern is None:
        return None
    vocabulary = read_vocabulary(model)
    if vocabulary is None:
        log.warning("%s: its vocabulary is not one of bytes, so documents are not looked for", model)
        return None
    documents = chunk_documents(read_tokens(logits), vocabulary, pattern)
    log.info("%d chunks of %d documents", len(documents), documents[-1] + 1)
    return documents
