"""What a run of llama.cpp's programs was, by what they print and not by its settings: chunks, threads, devices."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backends import BACKENDS, CARDS
from .engine import ENVIRONMENT
from .errors import UserError
from .rule import run_tool
from .text_length import MIN_CHUNKS

log = logging.getLogger("phase_twin")

CPU = "CPU"
# lets the engine name the devices that it takes
TELL_DEVICES = ("-lv", "4")
DEVICE = re.compile(r"using device (?P<name>\S+) \((?P<what>.*)\) \([^()]*\) - \d+ MiB free")
THREADS = re.compile(r"system_info: n_threads = (\d+)")
CHUNKS = re.compile(r"(?:computing|calculating perplexity) over (\d+) chunks, n_ctx=(\d+)")
TOO_SHORT = re.compile(r"tokenizes to only (\d+) tokens")
NOTHING_LEFT = re.compile(r"there will be not enough tokens left after removing (\d+) chunks")
CHUNK_DONE = r"\[(?P<done>\d+)\]"


def devices_and_threads(output: str) -> dict[str, Any]:
    """Read which devices a model was put on (`CPU` where the engine took no other) and the threads of the CPU.

    What asks for devices has to run with TELL_DEVICES.

    Raises
    ------
    UserError
        if the output has no line of the threads: it is not one of a finished run.
    """
    threads = THREADS.search(output)
    if not threads:
        raise UserError("llama.cpp's output has no line with n_threads; is it another version of the engine?")
    cards = [f"{match['name']} ({match['what']})" for match in DEVICE.finditer(output)]
    return {"device": ", ".join(dict.fromkeys(cards)) or CPU, "threads": int(threads[1])}


def chunks_taken(output: str) -> int:
    """Read how many chunks of a text a program took; raise a UserError where it does not say."""
    if not (found := CHUNKS.search(output)):
        raise UserError(
            "llama.cpp's output does not say how many chunks were taken; is it another version of the engine?"
        )
    return int(found[1])


def require_card(backend: str, device: str, is_card: bool) -> None:
    """Refuse figures that are not of a card, though engine.backend asks for one; the engine falls back to the CPU.

    Raises
    ------
    UserError
        with what to do.
    """
    if backend in CARDS and not is_card:
        raise UserError(
            f"engine.backend is {backend}, but the engine measured on {device}: look for the card in "
            f"`llama-bench --list-devices` ({BACKENDS[backend].needs}), or set engine.backend: cpu"
        )


def run_over_text(
    command: Sequence[str | Path],
    tool_log: str,
    text: str,
    *,
    n_ctx: int,
    chunks: int | None,
    setting: str,
    first: int = 0,
    shared: bool = False,
) -> int:
    """Run llama-imatrix or llama-perplexity over the chunks of a text and return how many there were.

    Parameters
    ----------
    text
        the file that `command` reads.
    n_ctx, first, chunks
        tokens of a chunk, and which chunks are asked for: None for all there are.
    setting
        key of the configuration that asks for them.
    shared
        whether other jobs take their share of the chunks: then it is an error if there are fewer, else a warning.

    Raises
    ------
    UserError
        if the program fails, or the text is too short.
    """
    try:
        output = run_tool(command, tool_log, env=ENVIRONMENT, progress=CHUNK_DONE, total=chunks)
    except UserError as error:
        refuse_short(str(error), text, n_ctx, setting)
        raise
    # llama-perplexity ends well where the text is too short
    refuse_short(output, text, n_ctx, setting)
    measured = chunks_taken(output)
    if chunks is not None and measured < chunks:
        told = f"{text}: has {first + measured} chunks of {n_ctx} tokens, {setting} asks for {first + chunks}"
        if shared:
            raise UserError(
                f"{told}, which jobs share: set it to {first + measured} at the most, or give a longer text"
            )
        log.warning("%s: all of them are taken", told)
    return measured


def refuse_short(output: str, text: str, n_ctx: int, setting: str) -> None:
    """Raise a UserError where the engine says that a text is too short."""
    if found := TOO_SHORT.search(output):
        raise UserError(
            f"{text}: has {found[1]} tokens, a run over chunks of {n_ctx} needs {MIN_CHUNKS * n_ctx}: "
            "give a longer text, or set a smaller n_ctx"
        )
    if found := NOTHING_LEFT.search(output):
        raise UserError(
            f"{text}: has no more than {int(found[1]) + MIN_CHUNKS} chunks of {n_ctx} tokens, {setting} asks for more, "
            "which jobs share: lower it, or give a longer text"
        )
