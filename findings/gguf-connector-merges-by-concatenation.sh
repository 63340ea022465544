#!/usr/bin/env bash
# gguf-connector 3.7.3 (PyPI), merger of GGUF files (`ggc m2`, "Merge all gguf into one").
#
# The files of the folder are written one behind the other, in the order in which the file system lists them. That undoes
# its own divider (`ggc d2`, which cuts anywhere and gives the pieces names like those of shards) if the order happens
# to be right. Of real shards, as llama-gguf-split and gguf-py write them, it makes a file that is as large as all of them
# and whose head is that of one: readers find one shard's tensors. It says "All files merged into", and ends with 0.
#
# Seen: a model of 4 tensors in 4 shards, merged
#   size: the sum of the shards; 1 tensor, split.count 4
# Way out: llama-gguf-split --merge. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf-connector==3.7.3 gguf==0.19.0 numpy==2.4.6
mkdir "$work/model"
cd "$work/model"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from gguf import GGUFWriter

writer = GGUFWriter("model.gguf", "llama", split_max_tensors=1)
for number in range(4):
    writer.add_tensor(f"blk.{number}.attn_q.weight", np.full((2, 32), number, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PYTHON
ls -1 --size --block-size 1
echo merged | "$work/venv/bin/ggc" m2
"$work/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

from gguf import GGUFReader

reader = GGUFReader("merged.gguf")
names = [tensor.name for tensor in reader.tensors]
size, parts = (sum(path.stat().st_size for path in Path().glob(p)) for p in ("merged.gguf", "model-*.gguf"))
print(f"merged: {size} of {parts} bytes, split.count {reader.fields['split.count'].contents()}, tensors {names}")
sys.exit(0 if size == parts and len(names) == 1 else "it behaves otherwise now")
PYTHON
