"""What a model's chat template makes of conversations in Jinja2, set up as transformers does.

llama.cpp has a reader of its own, which forgives more: a template that works there may fail everywhere else.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prune_dual import Gguf

KEY = "tokenizer.chat_template"
SPECIAL_TOKENS = ("bos", "eos", "unk", "pad")

USER = {"role": "user", "content": "Which weather has Bergen?"}
SYSTEM = {"role": "system", "content": "Answer in rhymes."}
CALL = {"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": {"city": "Bergen"}}}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "Rain since Tuesday"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
# conversation -> its messages, and what of them the text must have
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "a user turn": ([USER], (USER["content"],)),
    "a system turn": ([SYSTEM, USER], (SYSTEM["content"], USER["content"])),
    "a tool round trip with an assistant turn whose content is null": (
        [USER, CALLING | {"content": None}, RESULT],
        ("get_weather", RESULT["content"]),
    ),
    "a tool round trip with an assistant turn without content": (
        [USER, CALLING, RESULT],
        ("get_weather", RESULT["content"]),
    ),
}


class Generation(Extension):
    """The tag by which training tells what the assistant said: its block stands as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Take the block's content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja2 with the settings, filters and functions that transformers gives it."""

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = to_json
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return made


def faults_of(template: str, special: dict[str, str]) -> Iterator[str]:
    """Say of each conversation that the template fails on what is wrong.

    Parameters
    ----------
    special
        texts of special tokens: bos_token, eos_token and the like.
    """
    try:
        compiled = environment().from_string(template)
    except jinja2.TemplateError as error:
        yield f"is no template of Jinja2: {told(error)}"
        return
    for name, (messages, wanted) in CONVERSATIONS.items():
        tools = [TOOL] if RESULT in messages else None
        try:
            text = compiled.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=True, **special
            )
        # whatever the template does with its data
        except Exception as error:
            yield f"fails on {name}: {told(error)}"
            continue
        if lost := [one for one in wanted if one not in text]:
            yield f"leaves out {lost[0]!r} of {name}"
        elif "None" in text and "None" not in template:
            yield f"writes None for the content of {name}"


def told(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def template_faults(model: Gguf) -> list[str]:
    """What fails of a model's chat template; nothing where it has none."""
    if KEY not in model.kv:
        return []
    tokens = model.kv["tokenizer.ggml.tokens"].value
    ids = {name: model.kv.get(f"tokenizer.ggml.{name}_token_id") for name in SPECIAL_TOKENS}
    special = {f"{name}_token": tokens[entry.value] for name, entry in ids.items() if entry is not None}
    return [f"{KEY} {fault}" for fault in faults_of(model.kv[KEY].value, special)]
