"""How much a figure depends on the luck of one encoding: both phases encoded several times, the imatrix jittered."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import yaml
from gguf import GGUFReader

from markdown_table import markdown
from phase_twin.engine import BATCH, ENVIRONMENT
from phase_twin.positions import Positions
from phase_twin.rule import run_tool
from take_base import take_base

ROOT = Path(__file__).resolve().parent.parent
JITTER = 0.05  # standard deviation of the logarithm of each weight's factor
KINDS = ("IQ3_A770", "IQ4_A770")
HEAD = ["", "mean KLD", "99 % KLD", "99.9 % KLD", "largest", "top-1"]


def jitter(imatrix: Path, out: Path, seed: int) -> None:
    """Write the imatrix with its sums of squares multiplied by random factors near 1; seed 0 leaves them alone."""
    out.write_bytes(imatrix.read_bytes())
    reader, random = GGUFReader(out, "r+"), np.random.default_rng(seed)
    for tensor in reader.tensors if seed else ():
        if tensor.name.endswith(".in_sum2"):
            tensor.data[:] *= np.exp(JITTER * random.standard_normal(tensor.data.shape)).astype(np.float32)
    reader.data.flush()


def statistics(found: Positions) -> list[float]:
    """The columns of the table for one encoding; top-1 in percent."""
    kld = found.kld.astype(np.float64)
    return [kld.mean(), *np.quantile(kld, (0.99, 0.999)), kld.max(), 100 * found.same_top.mean()]


def summary(rows: dict[str, list[list[float]]]) -> str:
    """Return means over encodings with their standard errors as a table, [encodings, columns] for each name."""
    cells = []
    for name, values in rows.items():
        table = np.array(values)
        errors = table.std(axis=0, ddof=1) / np.sqrt(len(table))
        texts = [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(table.mean(axis=0), errors, strict=True)]
        cells.append([name, *texts[:-1], f"{table[:, -1].mean():.2f} ± {errors[-1]:.2f} %"])
    return markdown(HEAD, cells)


def main() -> None:
    """Encode, measure and print the table."""
    parser = argparse.ArgumentParser(prog="dev/run study_encodings", description=__doc__)
    parser.add_argument("--model", default="nex-n2-nano", help="its folder under results/, made before")
    parser.add_argument("--config", type=Path, default=ROOT / "config/nano.yaml", help="for the evaluation text")
    parser.add_argument("--encodings", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    results, models = ROOT / "results" / args.model, ROOT / "resources/models" / args.model
    (bf16,) = models.glob("*-BF16.gguf")
    text = yaml.safe_load(args.config.read_text())["bench"]["quality"]["corpus"].removeprefix("local:")
    rows: dict[str, list[list[float]]] = {"IQ3_A770 by itself": [], "the IQ3_A770 in IQ4_A770": [], "IQ4_A770": []}
    with tempfile.TemporaryDirectory(dir=models) as name:
        folder = Path(name)

        def run(program: str, *arguments: str | Path) -> None:
            command = [ROOT / "resources/engine/cpu/bin" / program, *map(str, arguments)]
            run_tool(command, folder / "tool.log", env=ENVIRONMENT)

        perplexity = ("llama-perplexity", "-c", 512, *BATCH, "-t", args.threads, "--kl-divergence-base", folder / "ref")
        run(*perplexity, "-m", bf16, "-f", ROOT / text, "--chunks", 100)
        for seed in range(args.encodings):
            jitter(results / "imatrix.gguf", folder / "imatrix", seed)
            data = ("--imatrix", folder / "imatrix", "--covariance", models / "covariance.gguf")
            for kind in KINDS:
                run("llama-quantize", *data, bf16, folder / kind, kind, args.threads)
            take_base(folder / KINDS[1], folder / "base")
            for row, file in zip(rows.values(), (KINDS[0], "base", KINDS[1]), strict=True):
                run(*perplexity, "-m", folder / file, "--kl-divergence", "-o", folder / "part")
                row.append(statistics(Positions.read_parts([folder / "part"], 512, None)))
            print(f"{seed + 1} of {args.encodings}", flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
