"""What downloads in tests bring, and how they are asked for."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import yaml

import download_checkpoint
import download_text

ROOT = Path(__file__).parent.parent
REPO = "someone/some-model"
SHARD = "model-00001-of-00002.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen3_5_moe"}',
    "tokenizer.json": bytes(range(256)) * 3000,
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    SHARD: os.urandom(3_000_000),
    "model-00002-of-00002.safetensors": os.urandom(500_000),
    "pytorch_model.bin": b"not wanted",
    "model.onnx": b"not wanted",
    "README.md": b"not wanted",
}
WANTED = {name for name in FILES if not name.endswith((".bin", ".onnx", ".md"))}
TEXT = "\n".join(f"line {n} of the text" for n in range(20_000)).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def edit(sources: Path, section: str, name: str, **values) -> None:
    data = yaml.safe_load(sources.read_text())
    data[section][name].update(values)
    sources.write_text(yaml.safe_dump(data))


def lock_path(sources: Path) -> Path:
    return sources.with_name("sources.lock.yaml")


def get_checkpoint(sources: Path, output: Path) -> None:
    download_checkpoint.download_checkpoint(str(sources), str(lock_path(sources)), "some-model", output)


def get_text(sources: Path, name: str, output: Path) -> None:
    download_text.download_text(str(sources), str(lock_path(sources)), name, output)


def assert_complete(output: Path) -> None:
    assert {path.name for path in output.iterdir()} == WANTED
    assert all((output / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any(path.is_symlink() for path in output.iterdir())
    assert not output.with_name("some-model.partial").exists()


def run_as_rule(script: str, name: str, sources: Path, output: Path, tmp_path: Path, token: str = ""):
    """Run a rule script as Snakemake would, in a process of its own."""
    code = f"""
from types import SimpleNamespace
import {script}
from phase_twin.rule import run_rule
class Params(SimpleNamespace):
    get = dict().get
run_rule({script}.main, SimpleNamespace(
    rule={script!r}, log=[{str(tmp_path / "rule.log")!r}], threads=2, input=[], output=[{str(output)!r}],
    wildcards=SimpleNamespace(name={name!r}),
    params=Params(sources={str(sources)!r}, lock={str(lock_path(sources))!r})))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if token:
        env["HF_TOKEN"] = token
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
