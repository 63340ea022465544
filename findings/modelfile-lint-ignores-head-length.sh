#!/usr/bin/env bash
# owist-modelfile-lint 0.2.1 (PyPI), memory estimate of `modelfile-lint`.
#
# The length of a head is taken to be embedding_length / head_count; attention.key_length and value_length, which the
# file states, are not read. Models whose heads are longer or shorter than that get a wrong cache: of Qwen3-0.6B (width
# 1024, 16 heads of 128) half of it, of Qwen3-30B-A3B and its relatives (width 2048, 32 heads of 128) as well. The check
# against free memory goes by that estimate.
#
# Seen: head of a GGUF with the sizes of Qwen3-0.6B (28 layers, 8 KV heads), num_ctx 32768, heads of 128, 64, 32
#   each time "1.75 GB KV cache"; 2 x 28 layers x 8 heads x 32768 tokens x 2 bytes x 128 are 3.50 GiB
# Way out: count with attention.key_length and attention.value_length. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check owist-modelfile-lint==0.2.1 gguf==0.19.0 numpy==2.4.6
cd "$work"
printf 'FROM ./model.gguf\nPARAMETER num_ctx 32768\n' >Modelfile
for length in 128 64 32; do
    "$work/venv/bin/python" - "$length" <<'PYTHON'
import sys

import numpy as np
from gguf import GGUFWriter

length = int(sys.argv[1])
writer = GGUFWriter("model.gguf", "qwen3")
writer.add_context_length(32768)
writer.add_block_count(28)
writer.add_embedding_length(1024)
writer.add_head_count(16)
writer.add_head_count_kv(8)
writer.add_key_length(length)
writer.add_value_length(length)
writer.add_tensor("token_embd.weight", np.zeros((1, 1024), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(f"heads of {length}: the cache needs {2 * 28 * 8 * length * 32768 * 2 / 2**30:.2f} GiB")
PYTHON
    "$work/venv/bin/modelfile-lint" Modelfile | grep --max-count 1 "KV cache" | tee -a estimates
done
if [[ $(sort -u estimates | wc -l) != 1 ]] || ! grep -q " 1.75 GB KV cache" estimates; then
    echo "it behaves otherwise now" >&2
    exit 1
fi
