#!/usr/bin/env bash
# gguf-connector 3.7.3 (PyPI), tensor remover (`ggc rm`; renamer and extractor write in the same way).
#
# The file without the tensors that were picked keeps three keys: architecture, file type and the version of
# quantization. Block counts, head counts, RoPE, tokenizer and chat template are gone, and the window says "1 tensor(s)
# removed. Saved as". A diffusion model may have had no others; a language model can no longer be loaded.
#
# Seen: 9 keys (block count, RoPE base, tokenizer, chat template, ...), 3 tensors; one removed
#   left: general.architecture, general.quantization_version, general.file_type
# Way out: read with GGUFReader, write with GGUFWriter, copying all fields, as gguf-new-metadata of gguf does.
# Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf-connector==3.7.3 gguf==0.19.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from unittest.mock import MagicMock

# the remover's window is not opened; without this a Python without Tk could not even import it
sys.modules["tkinter"] = MagicMock()

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf_connector.remover import remove_tensors

writer = GGUFWriter("model.gguf", "llama")
writer.add_block_count(1)
writer.add_embedding_length(32)
writer.add_context_length(4096)
writer.add_rope_freq_base(1e6)
writer.add_file_type(0)
writer.add_tokenizer_model("gpt2")
writer.add_token_list(["a", "b"])
writer.add_chat_template("{{ messages }}")
for number, name in enumerate(("token_embd.weight", "blk.0.attn_q.weight", "rope_freqs.weight")):
    writer.add_tensor(name, np.full((2, 32), number, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
remove_tensors("model.gguf", ["rope_freqs.weight"], "without.gguf")
kept = []
for path in ("model.gguf", "without.gguf"):
    reader = GGUFReader(path)
    kept = [key for key in reader.fields if not key.startswith("GGUF.")]
    print(f"{path}: {len(reader.tensors)} tensors, {len(kept)} keys: {', '.join(kept)}")
same = kept == ["general.architecture", "general.quantization_version", "general.file_type"]
sys.exit(0 if same else "it behaves otherwise now")
PYTHON
