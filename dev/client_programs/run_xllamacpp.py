"""What xllamacpp, a wheel of stock llama.cpp, makes of a prompt: run_xllamacpp.py MODEL PROMPT N_TOKENS RESULT.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from xllamacpp import CommonParams, Server

model, prompt, n_tokens, result = sys.argv[1:]
params = CommonParams()
params.model.path = model
params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = Server(params)
done = server.handle_completions({"prompt": prompt, "max_tokens": int(n_tokens), "temperature": 0})
Path(result).write_text(json.dumps({"version": version("xllamacpp"), "text": done["choices"][0]["text"]}))
