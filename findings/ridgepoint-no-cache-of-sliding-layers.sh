#!/usr/bin/env bash
# ridgepoint 0.1.2 (PyPI), `fit` of a model of the hub with layers of sliding-window attention.
#
# Of layer_types only names with "full" count as layers with a cache. That is meant for linear attention, which has
# none, but leaves out sliding attention as well, whose layers hold a window of keys and values. For contexts no longer
# than the window all layers need the same, so layer_types must not matter; the answer without them shows how they do.
#
# Seen: sizes of Gemma 3 27B (62 layers, 52 of them sliding, window 1024), 1024 tokens, one card of 80 GB:
#   with layer_types: 83,886,080 bytes per sequence, 303 sequences
#   without:          520,093,696 bytes per sequence, 48 sequences
# Way out: leave layer_types out for contexts up to the window; beyond that, add 2 x sliding layers x KV heads x
# head_dim x window x 2 bytes per sequence. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ridgepoint==0.1.2
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

import ridgepoint
from ridgepoint import hf

SIZES = {"hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16}
SIZES |= {"head_dim": 128, "vocab_size": 262208, "sliding_window": 1024}
TYPES = ["sliding_attention" if layer % 6 != 5 else "full_attention" for layer in range(62)]


def download(repo_id, filename, revision):
    """Stand in for the hub, which has nothing but the configuration."""
    if filename != "config.json":
        raise FileNotFoundError(filename)
    return "config.json"


hf.hf_hub_download = download
hf._safetensors_shards = lambda repo, revision: []
found = []
for label, config in (("with layer_types", SIZES | {"layer_types": TYPES}), ("without", SIZES)):
    Path("config.json").write_text(json.dumps(config))
    answer = json.loads(ridgepoint.fit("owner/model", "a100-80gb", ctx=1024, as_json=True))
    found.append((answer["capacity"]["bytes_per_seq"], answer["capacity"]["max_sequences"]["best"]))
    print(f"{label}: {found[-1][0]:,} bytes per sequence, {found[-1][1]} sequences")
sys.exit(0 if found[0][0] * 62 == found[1][0] * 10 else "it behaves otherwise now")
PYTHON
