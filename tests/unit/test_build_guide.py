"""BUILD.md's troubleshooting: the messages it quotes exist, and none of the errors is left out."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOLE = "…"  # what differs, in a message or its quotation
# says only where, what is wrong follows
WRAPPERS = {f"{HOLE}: tensor {HOLE}: {HOLE}", f"tensor '{HOLE}', variant {HOLE}: {HOLE}", f"bench-nx2.sh: {HOLE}"}
# of the files that patches change, those whose messages a user's load can meet
LOADER = (
    "ggml/src/gguf.cpp",
    "src/llama-model-loader.cpp",
    "src/llama-tensor-variant.cpp",
    "src/llama-variant-data.cpp",
)


def shell_messages(text: str, pattern: str) -> list[str]:
    found = re.findall(pattern + r""" ?(?:'[^'\n]*'|"(?:\$\([^)]*\)|\\.|[^"\\\n])*")""", text)
    return [re.sub(r"\$\([^)]*\)|\$\{[^}]*\}|\$\w+|%\w", HOLE, message) for message in found]


def python_text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def c_messages(text: str, pattern: str) -> list[str]:
    added = "\n".join(line[1:] for line in text.splitlines() if re.match(r"\+[^+]", line))
    joined = re.sub(r'" PRI\w+', '"', re.sub(r'" PRI\w+ "', "", added))
    found = re.findall(rf'(?:{pattern})\(\s*"((?:\\.|[^"\\])*)', joined)
    return [re.sub(r"%[-.\d]*z?[a-zA-Z]?", HOLE, message) for message in found]


def sources() -> tuple[list[str], list[str]]:
    """All texts that the programs can print, and those of them that end a program."""
    texts, errors = [], []
    for path in (ROOT / "release").glob("*.sh"):
        text = path.read_text()
        errors += shell_messages(text, r"\bfail")
        texts += shell_messages(text, r"(?:note|printf|missing\+=\()")
    programs = [ROOT / "scripts/prune-dual.py", ROOT / "release/bench-nx2.py"]
    for path in [*programs, *(ROOT / "scripts/prune_dual").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            texts.append(python_text(node))
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "GgufError",
                "BenchError",
                "fail",
                "exit",
            ):
                errors += [python_text(argument) for argument in node.args]
    for path in (ROOT / "patches").rglob("*.patch"):
        for diff in re.split(r"^diff --git a/", path.read_text(), flags=re.MULTILINE):
            if diff.startswith(LOADER):
                texts += c_messages(diff, "LOG_WARN|LOG_INFO|fail|reason = format")
                errors += c_messages(diff, r"LOG_ERROR|runtime_error\(format|runtime_error")
    texts = [text for text in texts if text and "\n" not in text]  # no docstrings
    return texts + errors, [text for text in errors if re.search(r"[a-z]{3}", text) and text not in WRAPPERS]


@pytest.fixture(scope="module")
def quotes() -> list[str]:
    guide = (ROOT / "release/BUILD.md").read_text()
    tables = guide[guide.index("### The scripts") : guide.index("### From compiler")]
    cells = re.findall(r"^\| (`.*?) \| ", tables, re.MULTILINE)
    return [quote.replace("...", HOLE) for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]


def test_every_message_it_quotes_exists(quotes):
    texts, _ = sources()
    assert len(quotes) > 100
    assert [quote for quote in quotes if not any(quote in text for text in texts)] == []


def test_every_error_is_in_it(quotes):
    _, errors = sources()
    assert len(errors) > 150
    assert [error for error in errors if not any(quote in error for quote in quotes)] == []
