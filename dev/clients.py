"""Open an all-Q4 fit in other programs, and compare their first tokens with the engine's (docs/clients.md).

usage: dev/run clients [FILE] [--only NAME ...] [--engine LLAMA_COMPLETION] [--environments DIR]   (from the project's
folder, after a run)

FILE is a twin, which is cut with all experts promoted, or what prune-dual.py --variant 1 made of one. Each client is
pinned in envs/clients and gets an environment of its own, kept in DIR: 1.5 GB with torch, for whose CPU build
TORCH_FLAGS says where it is, as for `make setup`. Ends with 1 if a client does not open it or says something else.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from phase_twin.errors import UserError
from prune_dual import IQ3_A770, KEY_COUNT, Gguf, GgufError, Twin, prune, select

PROJECT = Path(__file__).resolve().parents[1]
CLIENTS = ("xllamacpp", "transformers", "mistralrs")
TWIN = Path("results/nex-n2-nano/Nex-N2-nano-twin.gguf")
ENGINE = Path("resources/engine/cpu/bin/llama-completion")
ENVIRONMENTS = PROJECT / ".venv-clients"
# nano's first token leads the second by about 1 nat or more all the way, so that a client's roundings do not decide
PROMPT, N_TOKENS = "definition_nodes(stream, right):", 8
TIMEOUT_S = 600
HEAD = ("client", "version", "opens", "first tokens")


@dataclass(frozen=True)
class Answer:
    """What a client said: its version and text, or why there is none."""

    version: str
    text: str | None
    reason: str = ""


def plain_file(path: Path, folder: Path) -> Path:
    """Return `path`, or what is cut of a twin there with all experts promoted; UserError if types of ours remain."""
    try:
        gguf = Gguf.read(path)
        if KEY_COUNT in gguf.kv:
            twin = Twin.of(gguf)
            path = folder / "all-promoted.gguf"
            prune(twin, select(twin, variant=1), path)
            gguf = Gguf.read(path)
    except (GgufError, OSError) as error:
        raise UserError(f"{error} (a twin is made by `make nano`)") from error
    if any(tensor.type == IQ3_A770 for tensor in gguf.tensors):
        raise UserError(
            f"{path}: has experts of IQ3_A770, which no client reads; cut the twin with prune-dual.py --variant 1"
        )
    return path.resolve()


def engine_text(tool: Path, model: Path) -> str:
    """Return what our engine says after the prompt."""
    command = [tool, "-m", model, "-p", PROMPT, "-n", N_TOKENS, "--temp", 0, "-t", 1, "-no-cnv", "--no-display-prompt"]
    try:
        done = run(command)
    except OSError as error:
        raise UserError(f"{tool}: {error.strerror} (the engine is built by `make nano`)") from error
    if done.returncode:
        raise UserError(f"{tool} ended with {done.returncode}: {last_line(done.stderr)}")
    # the program ends its output with an empty line
    return done.stdout.rstrip("\n")


def run(command: list[object], timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command without input; its output is kept."""
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def environment(name: str, folder: Path) -> Path:
    """Return the Python of a client's environment, set up if it is not, or not of these pins."""
    python, stamp = folder / name / "bin/python", folder / name / "pins.sha256"
    lock, torch = PROJECT / f"envs/clients/{name}.lock", PROJECT / "envs/torch.txt"
    parts = [["--no-deps", "--require-hashes", "-r", lock]]
    if name == "transformers":
        parts.append([*shlex.split(os.environ.get("TORCH_FLAGS", "")), "-r", torch])
    pins = hashlib.sha256(lock.read_bytes() + torch.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    print(f"setting up {folder / name}", file=sys.stderr)
    venv.create(folder / name, clear=True, with_pip=True)
    for part in parts:
        done = run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *part])
        if done.returncode:
            raise UserError(f"{name} cannot be installed: {last_line(done.stderr)}")
    stamp.write_text(pins)
    return python


def ask(python: Path, program: Path, model: Path) -> Answer:
    """Return what a client, run by its program, says after the prompt."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        try:
            done = run([python, program, model, PROMPT, N_TOKENS, result], TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Answer("", None, f"no answer within {TIMEOUT_S} s")
        if done.returncode or not result.is_file():
            return Answer("", None, last_line(done.stderr))
        return Answer(**json.loads(result.read_text()))


def row(name: str, answer: Answer, expected: str) -> tuple[str, ...]:
    """Return the cells of a client."""
    if answer.text is None:
        return name, answer.version or "?", "no", answer.reason
    same = "equal" if answer.text.rstrip("\n") == expected else f"{answer.text!r} for {expected!r}"
    return name, answer.version, "yes", same


def main() -> None:
    """Print a row for each client."""
    parser = argparse.ArgumentParser(description="Compare the first tokens of other programs with the engine's.")
    parser.add_argument("file", nargs="?", type=Path, default=TWIN, help="twin or all-Q4 fit (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CLIENTS, default=CLIENTS, metavar="NAME", help="of %(choices)s")
    parser.add_argument("--engine", type=Path, default=ENGINE, help="our llama-completion (%(default)s)")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where clients are installed")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        model = plain_file(args.file, Path(folder))
        expected = engine_text(args.engine, model)
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
        for name in args.only:
            python = environment(name, args.environments)
            answer = ask(python, PROJECT / f"dev/client_programs/run_{name}.py", model)
            cells = row(name, answer, expected)
            wrong += cells[2:] != ("yes", "equal")
            print("| " + " | ".join(cells) + " |", flush=True)
    if wrong:
        raise UserError(f"{wrong} of {len(args.only)} do not do what docs/clients.md says")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
