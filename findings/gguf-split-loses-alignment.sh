#!/usr/bin/env bash
# gguf 0.19.0 (PyPI), GGUFWriter with split_max_tensors and add_custom_alignment.
#
# Only the first part gets the key general.alignment, but all parts are laid out by it. A reader takes 32 for the parts
# that lack it, looks for their data too early, and gets padding for weights. Nothing raises or warns.
#
# Seen: three tensors full of 1, 2 and 3, alignment 256, one per part:
#   part 1: general.alignment 256, first weights 1.0
#   part 2: no general.alignment, first weights 0.0
#   part 3: no general.alignment, first weights 0.0
# Written into one file, the same tensors come back right. Way out: split with the default alignment.
# Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import glob
import sys

import numpy as np
from gguf import GGUFReader, GGUFWriter


def write(path, split):
    writer = GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_custom_alignment(256)
    for value in (1, 2, 3):
        writer.add_tensor(f"t{value}", np.full(64, value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write("one.gguf", 0)
whole = [float(tensor.data[0]) for tensor in GGUFReader("one.gguf").tensors]
print("one file: first weights", whole)
write("parts.gguf", 1)
parts = []
for path in sorted(glob.glob("parts-*.gguf")):
    reader = GGUFReader(path)
    field = reader.fields.get("general.alignment")
    parts.append(float(reader.tensors[0].data[0]))
    told = f"general.alignment {field.contents()}" if field else "no general.alignment"
    print(f"{path}: {told}, first weights {parts[-1]}")
sys.exit(0 if whole == [1, 2, 3] and parts == [1, 0, 0] else "it behaves otherwise now")
PYTHON
