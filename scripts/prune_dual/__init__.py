"""Cut a phase twin down to one plain GGUF that fits a memory budget.

A phase twin is a GGUF in which each expert tensor (a *group*) is stored twice: `<name>` is variant 0, `<name>.v1` the
larger variant 1. A nested twin has `<name>.r1` in its place, a plane that makes variant 1 of variant 0. This package
reads the container, holds the selection rule (the same as the engine's) and writes the variants that were selected as
an ordinary GGUF without variant keys. The input is never changed.

It stands alone: it needs Python >= 3.11 and the stock `gguf` package, and nothing of the pipeline, which uses it too. A
release carries it as one file, prune-dual.py. Each part imports only from those that stand before it:

    errors     what every part raises, and how it speaks of bytes
    files      outputs that get their name when complete, one writer at a time
    progress   how far it is
    container  GGUF: reader, writer, tensor types, hashes
    twin       groups of variants, THE selection rule, the plain file of a selection
    memory     what a card holds: the account, cards and their sizes
    manifest   SHA-256 of a release's files and tensors, who signed them
    transport  a twin on this machine or behind an address
    cli        the command line
"""

from .container.entries import KEY_ALIGNMENT, Kv, Span, Strand, Tensor, Woven, encode_kv
from .container.hashing import sha256_span
from .container.layout import Layout, lay_out
from .container.reader import KEY_VERSION, MAX_ELEMENTS, VARIANT_PREFIX, Gguf
from .container.statements import about_bytes
from .container.tensor_types import (
    BLOCK_SIZES,
    FILE_TYPES,
    IQ3_A770,
    IQ3_A770_BLOCK,
    IQ3_A770_BYTES,
    IQ3_A770_CODEBOOK,
    IQ3_A770_LEGACY,
    IQ3_A770_R,
    IQ3_A770_R_BYTES,
    IQ3_A770_R_GAIN,
    IQ3_A770_R_TABLES,
    IQ4_A770,
    IQ4_A770_BYTES,
    Q2_0,
    tensor_nbytes,
)
from .container.type_keys import TYPE_KEYS, check_types, type_kv
from .container.writing import write_gguf
from .errors import GIB, MIB, GgufError, amount
from .files import CHUNK
from .manifest.content import MANIFEST_NAME, FileHash, Manifest
from .manifest.tensors import hash_gguf, verify_copy
from .memory.account import CACHE_TYPES, Memory, Model, Settings, Weights
from .memory.cards import RESERVE_GIB, Account, Plan, plan, tensor_split
from .memory.devices import Card, card_sizes, detect
from .memory.listing import choose, listed_cards, parse_listing
from .memory.visible import visible
from .twin.groups import (
    KEY_BUDGET_MB,
    KEY_DEFAULT,
    KEY_PROMOTE_ORDER,
    KEY_PROMOTE_TIE,
    Twin,
    mtp_blocks,
)
from .twin.kinds import KEY_COUNT, KEY_KIND, NESTED, SIBLINGS, VERSIONS, split_refined, split_variant, variant_name
from .twin.plain import KEY_FILE_TYPE, PROVENANCE_PREFIX, prune
from .twin.selection import Selection, parse_ranks, select
