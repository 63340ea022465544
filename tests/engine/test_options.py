"""What our scripts, guides and tests call by name is in the engine: options, variables, settings of its build."""

import ast
import inspect
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

# what others write, and the base's own words
NOT_OURS = ("patches/", "models/", "results/", "report/", "tests/fuzz/corpus/")
PLACEHOLDERS = {"LLAMA_COMPLETION"}
NAME = r"(?:GGML|GGUF|LLAMA)_[A-Z0-9_]*[A-Z0-9]\b"
OPTION = r"--?[A-Za-z][A-Za-z0-9-]*"

# program -> where the patched tree reads its options; other programs of llama.cpp share one table
OPTIONS = {
    "llama-bench": "tools/llama-bench/llama-bench.cpp",
    "llama-gguf-split": "tools/gguf-split/gguf-split.cpp",
    "llama-quantize": "tools/quantize/quantize.cpp",
    "llama-variant-info": "tools/variant-info/variant-info.cpp",
    "test-backend-ops": "tests/test-backend-ops.cpp",
    "test-quantize-perf": "tests/test-quantize-perf.cpp",
}
COMMON = "common/arg.cpp"
# module -> the programs that it starts
CALLERS = {
    "compute_imatrix": ["llama-imatrix"],
    "measure_arc": ["llama-bench", "llama-perplexity", "test-backend-ops"],
    "measure_cpu": ["llama-bench", "test-quantize-perf"],
    "measure_quality": ["llama-perplexity"],
    "measure_speed": ["llama-bench"],
    "phase_twin.arc": ["llama-bench", "llama-perplexity"],
    "phase_twin.engine": ["llama-perplexity"],
    "quantize_recipe": ["llama-quantize"],
    "trace_sycl": ["llama-completion"],
    "write_reference_logits": ["llama-perplexity"],
}


@pytest.fixture(scope="module")
def tree(engine_bin, root) -> Path:
    engine_bin("llama-bench")  # with the programs comes the tree
    return root / "resources/engine/source"


@pytest.fixture(scope="module")
def texts(root) -> dict[str, str]:
    """Our own texts by path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0")[:-1] if not path.startswith(NOT_OURS)]
    return {path: (root / path).read_text(errors="ignore") for path in paths if (root / path).is_file()}


@pytest.fixture(scope="module")
def known(tree):
    """The options that a program reads."""

    def read(program: str) -> set[str]:
        return set(re.findall(rf'"({OPTION})"', (tree / OPTIONS.get(program, COMMON)).read_text()))

    return read


def test_names_are_those_of_the_engine(tree, texts):
    code = {".c", ".cmake", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".py", ".txt"}
    there = set()
    for path in tree.rglob("*"):
        if path.suffix in code and path.is_file():
            there.update(re.findall(rf"\b{NAME}", path.read_text(errors="ignore")))
    ours = {
        name: path
        for path, text in texts.items()
        if path != str(Path(__file__).relative_to(Path(__file__).parents[2]))
        for name in re.findall(rf"(?:\b|(?<=-D)){NAME}", text)
    }
    assert {"GGML_SYCL_ENABLE_OPT", "LLAMA_BUILD_COMMIT", "GGUF_IQ3_A770_LEGACY_ID"} <= ours.keys()
    assert {name: path for name, path in ours.items() if name not in there | PLACEHOLDERS} == {}


@pytest.mark.parametrize("module", CALLERS)
def test_scripts_use_options_that_exist(known, module):
    source = ast.parse(inspect.getsource(import_module(module)))
    strings = [node.value for node in ast.walk(source) if isinstance(node, ast.Constant)]
    used = {text for text in strings if isinstance(text, str) and re.fullmatch(OPTION, text)}
    assert used - set().union(*map(known, CALLERS[module])) == set()


def test_guides_use_options_that_exist(known, texts):
    guides = [path for path in texts if Path(path).suffix in (".md", ".j2", ".sh")]
    calls = []
    for path in guides:
        for program, rest in re.findall(r"\b(llama-[a-z-]+)((?: [^\s|`]+)+)", texts[path]):
            calls.append((path, program, rest.partition(" #")[0]))
        for rest in re.findall(r"\brun-nx2\.sh\b[^\n|`]*? --((?: [^\s|`]+)+)", texts[path]):
            calls.append((path, "llama-server and others", rest.partition(" #")[0]))
    used = {
        (path, program, option)
        for path, program, rest in calls
        for option in re.findall(rf"(?<= )({OPTION})(?=[ =]|$)", rest)
    }
    assert len(used) > 10
    assert {use for use in used if use[2] not in known(use[1])} == set()
