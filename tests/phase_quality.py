"""KLD of a twin's phases against the BF16 model, by an engine with another backend than the CPU's."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phase_twin.engine import BATCH, override

TEXT = "models/nex-n2-nano/evaluation.txt"
BF16 = "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf"
TWIN = "results/nex-n2-nano/Nex-N2-nano-twin.gguf"
NESTED = "nested"  # a nested twin in its place
# which phase of which twin -> the type of its experts
PHASES = {(TWIN, 0): "iq3_a770", (TWIN, 1): "q4_K", (NESTED, 1): "iq4_a770"}
CARD_FLAGS = ("-ngl", "99", "-fa", "off")


@dataclass(frozen=True)
class Quality:
    """Measures phases; `start` gives the command of a program with the other backend.

    `folder` holds the reference logits and the nested twin, which are made when they are asked for.
    """

    root: Path
    engine_bin: Callable[[str], Path]
    start: Callable[[str], Sequence[str | Path]]
    folder: Path

    def path_of(self, twin: str) -> Path:
        path = self.folder / "nested.gguf"
        if twin == NESTED and not path.exists():
            imatrix = "results/nex-n2-nano/imatrix.gguf"
            command = ["dev/run", "nest_twin", TWIN, "--model", BF16, "--imatrix", imatrix, "--out", path]
            subprocess.run(command, cwd=self.root, check=True, capture_output=True)
        return path if twin == NESTED else self.root / twin

    def logits(self, chunks: int) -> Path:
        path = self.folder / f"{chunks}.kld"
        if not path.exists():
            command = [self.engine_bin("llama-perplexity"), "-m", self.root / BF16, "-f", self.root / TEXT, *BATCH]
            command += ["-c", "512", "--chunks", str(chunks), "--kl-divergence-base", path]
            subprocess.run(command, check=True, capture_output=True)
        return path

    def measure(
        self, case: tuple[str, int], chunks: int, backend: dict[str, str] | None, ubatch: int = 512
    ) -> tuple[float, float, str]:
        """Mean KLD, its error, and what the program said; on the CPU without settings of a backend."""
        twin, phase = case
        program = "llama-perplexity"
        command = [self.engine_bin(program)] if backend is None else [*self.start(program), *CARD_FLAGS]
        command += ["-m", self.path_of(twin), "-c", "512", "-b", "2048", "-ub", str(ubatch)]
        command += [*override("default", phase), "--kl-divergence", "--kl-divergence-base", self.logits(chunks)]
        done = subprocess.run(command, env=os.environ | (backend or {}), capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-2000:]
        mean, error = re.findall(r"Mean +KLD: +([\d.]+) ± +([\d.]+)", said)[0]
        return float(mean), float(error), said
