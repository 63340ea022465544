"""Run llama.cpp's converter with what it may not know: the hash of a tokenizer, another prefix of a vision tower.

usage: run_converter.py TREE PRE -- ARGUMENTS OF convert_hf_to_gguf.py
TREE (and TREE/gguf-py) must be on PYTHONPATH; PRE is a name, or "-" to leave the converter's own look-up alone.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from phase_twin.checkpoint import TOWER

# begins the line of what is refused here: the whole message, whatever the converter said before
REFUSED = "refused: "
# begins that of what the converter has no code for
UNSUPPORTED = "unsupported: "


def find_tower() -> None:
    """Let Qwen's vision tower be found under the prefixes that tools give it; the converter ends well without it."""
    from conversion.qwen3vl import Qwen3VLVisionModel

    known = Qwen3VLVisionModel.filter_tensors.__func__

    def filter_tensors(cls: type, item: tuple[str, Any]) -> tuple[str, Any] | None:
        name, data = item
        places = list(TOWER.finditer(name))
        return known(cls, (f"visual.{name[places[-1].end() :]}" if places else name, data))

    Qwen3VLVisionModel.filter_tensors = classmethod(filter_tensors)


def main(argv: list[str]) -> None:
    """Patch the look-up, then hand over to the converter in this process."""
    tree, pre, separator, *arguments = argv
    if separator != "--":
        sys.exit(__doc__)
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: TextModel, tokenizer: object) -> str:
        try:
            found = known(self, tokenizer)
        except NotImplementedError:
            if pre == "-":
                sys.exit(f"{REFUSED}the converter does not know by which rule this tokenizer splits text")
            return pre
        if pre not in ("-", found):
            sys.exit(f"{REFUSED}model.tokenizer_pre is {pre!r}, but the converter knows this tokenizer as {found!r}")
        return found

    TextModel.get_vocab_base_pre = get_vocab_base_pre
    find_tower()
    script = str(Path(tree) / "convert_hf_to_gguf.py")
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except NotImplementedError as error:
        sys.exit(f"{UNSUPPORTED}{' '.join(str(error).split()) or 'it does not say what'}")


if __name__ == "__main__":
    main(sys.argv[1:])
