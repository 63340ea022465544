"""What transformers makes of a prompt, calculated in F32: run_transformers.py MODEL PROMPT N_TOKENS RESULT.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model, prompt, n_tokens, result = sys.argv[1:]
torch.set_num_threads(1)
place = {"pretrained_model_name_or_path": Path(model).parent, "gguf_file": Path(model).name}
tokenizer = AutoTokenizer.from_pretrained(**place)
loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
ids = tokenizer(prompt, return_tensors="pt").input_ids
done = loaded.generate(ids, max_new_tokens=int(n_tokens), do_sample=False)
text = tokenizer.decode(done[0, ids.shape[1] :])
Path(result).write_text(json.dumps({"version": version("transformers"), "text": text}))
