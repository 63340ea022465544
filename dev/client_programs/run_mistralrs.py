"""What mistral.rs makes of a prompt: run_mistralrs.py MODEL PROMPT N_TOKENS RESULT.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from mistralrs import CompletionRequest, Runner, Which

model, prompt, n_tokens, result = sys.argv[1:]
which = Which.GGUF(quantized_model_id=str(Path(model).parent), quantized_filename=Path(model).name)
request = CompletionRequest(prompt=prompt, model="default", max_tokens=int(n_tokens), temperature=0)
done = Runner(which=which, no_paged_attn=True).send_completion_request(request)
Path(result).write_text(json.dumps({"version": version("mistralrs"), "text": done.choices[0].text}))
