"""Cut a phase twin down to one plain GGUF that fits a memory budget.

A phase twin is a GGUF in which each expert tensor (a *group*) is stored twice: `<name>` is variant 0, `<name>.v1` the
larger variant 1. This package reads the container, holds the selection rule (the same as the engine's) and writes the
variants that were selected as an ordinary GGUF without variant keys. The input is never changed.

It stands alone: it needs Python >= 3.11 and the stock `gguf` package, and nothing of the pipeline, which uses it too. A
release carries it as one file, prune-dual.py.
"""

from .cards import RESERVE_GIB, Account, Plan, plan, tensor_split
from .container import (
    CHUNK,
    KEY_VERSION,
    MAX_ELEMENTS,
    VARIANT_PREFIX,
    Gguf,
    Kv,
    Span,
    Tensor,
    encode_kv,
)
from .devices import Card, card_sizes, detect
from .errors import GIB, MIB, GgufError, amount
from .hashing import sha256_span
from .manifest import MANIFEST_NAME, FileHash, Manifest, hash_gguf, verify_copy
from .memory import CACHE_TYPES, Memory, Model, Settings, Weights
from .plain import PROVENANCE_PREFIX, prune
from .selection import Selection, parse_ranks, select
from .tensor_types import (
    BLOCK_SIZES,
    FILE_TYPES,
    IQ3_A770,
    IQ3_A770_BLOCK,
    IQ3_A770_BYTES,
    IQ3_A770_CODEBOOK,
    IQ3_A770_LEGACY,
    KEY_IQ3_A770_CODEBOOK,
    KEY_IQ3_A770_VERSION,
    Q2_0,
    tensor_nbytes,
)
from .twin import (
    KEY_BUDGET_MB,
    KEY_COUNT,
    KEY_DEFAULT,
    KEY_PROMOTE_ORDER,
    KEY_PROMOTE_TIE,
    VARIANT_VERSION,
    Twin,
    check_iq3_a770,
    iq3_a770_kv,
    split_variant,
    variant_name,
)
from .writing import Layout, lay_out, write_gguf
