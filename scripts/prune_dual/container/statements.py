"""Keys that speak of the bytes of the file they stand in: a copy with other bytes must not repeat them."""

import re

from .reader import Gguf

# a word of a key's name: signatures, hashes, and the manifests of C2PA, which are both
WORDS = re.compile(
    r"(?:^|[._:-])"
    r"(?:c2pa|sig|signatures?|minisig|sigstore|checksums?|digests?|hash(?:es)?|merkle|md5|crc32|sha(?:1|256|384|512)"
    r"|blake[23][a-z]*|xxh\w*)"
    r"(?:$|[._:-])",
    re.IGNORECASE,
)
# these speak of what the file was made from, or of the model, which stays true
OF_OTHERS = ("phase_twin.", "general.base_model.", "general.source.", "general.dataset.", "tokenizer.", "quantize.")


def about_bytes(gguf: Gguf) -> list[str]:
    """Names of the keys that sign, hash or attest the file as it is, or tell of parts that it was split into."""
    others = (*OF_OTHERS, f"{gguf.get('general.architecture', 'str', 'general.architecture')}.")
    return [
        name for name in gguf.kv if name.startswith("split.") or (WORDS.search(name) and not name.startswith(others))
    ]
