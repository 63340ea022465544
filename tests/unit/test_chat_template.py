"""Chat templates in Jinja2, as clients other than llama.cpp read them."""

import json

import pytest

from gguf_files import write
from phase_twin.chat_template import environment, faults_of, template_faults
from prune_dual import Gguf

GOOD = """\
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for m in messages %}
<|{{ m.role }}|>{% if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls %}{% generation %}{{ call.function | tojson }}{% endgeneration %}{% endfor %}
{{ eos_token }}
{%- endfor %}
"""
NULL = "a tool round trip with an assistant turn whose content is null"
MISSING = "a tool round trip with an assistant turn without content"
# instead of the line of contents in GOOD -> what is told
CONTENT = "{% if m.content %}{{ m.content }}{% endif %}"


def test_nothing_is_told_of_a_template_that_takes_all():
    assert list(faults_of(GOOD, {"eos_token": "</s>"})) == []


def test_nano_fails_on_a_tool_round_trip(root):
    folder = root / "models/nex-n2-nano/checkpoint"
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    null, missing = faults_of(template, {})
    assert null.startswith(f"fails on {NULL}: TypeError: unsupported operand")
    assert missing.startswith(f"fails on {MISSING}: UndefinedError: 'dict object' has no attribute 'content'")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{{ m.content }}", [f"writes None for the content of {NULL}"]),
        ("{{ m.content | trim }}", [f"writes None for the content of {NULL}"]),
        (
            "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CONTENT,
            ["fails on a system turn: TemplateError: no system"],
        ),
        (
            "{% if m.role == 'tool' %}{% break %}{% endif %}" + CONTENT,
            [f"leaves out 'Rain since Tuesday' of {name}" for name in (NULL, MISSING)],
        ),
        (
            "{% if m.role == 'system' %}{% continue %}{% endif %}" + CONTENT,
            ["leaves out 'Answer in rhymes.' of a system turn"],
        ),
        ("{% for", ["is no template of Jinja2: TemplateSyntaxError: "]),
        # what a template may not do: reach for Python, change what it is given
        ("{{ m.__class__.mro() }}" + CONTENT, ["fails on a user turn: SecurityError"] + 3 * ["fails on a "]),
        ("{% set _ = messages.append(m) %}" + CONTENT, ["fails on a user turn: SecurityError"] + 3 * ["fails on a "]),
    ],
)  # fmt: skip
def test_what_fails_is_told_by_conversation(content, told):
    found = list(faults_of(GOOD.replace(CONTENT, content), {}))
    assert len(found) == len(told)
    for line, start in zip(found, told, strict=True):
        assert line.startswith(start)
        assert "\n" not in line


def test_json_is_written_as_transformers_writes_it():
    template = environment().from_string("{{ value | tojson }} {{ strftime_now('%%') }}")
    assert template.render(value={"b": "<ä>", "a": 1}) == '{"b": "<ä>", "a": 1} %'


@pytest.mark.parametrize(("template", "count"), [(None, 0), ("{{ messages | tojson }}{{ eos_token + 1 }}", 4)])
def test_the_template_of_a_file_is_filled_with_its_tokens(tmp_path, template, count):
    keys = [("tokenizer.ggml.tokens", "[str]", ["a", "</s>"]), ("tokenizer.ggml.eos_token_id", "u32", 1)]
    keys += [("tokenizer.chat_template", "str", template)] if template else []
    found = template_faults(Gguf.read(write(tmp_path / "model.gguf", keys, [])))
    assert len(found) == count
    assert all("TypeError: can only concatenate str" in line for line in found)
