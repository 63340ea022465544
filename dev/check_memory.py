"""Compare the account of memory with what the engine logs, over a grid, as the table in docs/memory.md.

usage: dev/run check_memory MODEL [LLAMA_COMPLETION]   (from the project's folder; a build for the CPU, half a minute)
"""

import re
import subprocess
import sys
from pathlib import Path

from prune_dual import MIB, Gguf, Memory, Model, Settings

DEFAULT_TOOL = "resources/engine/cpu/bin/llama-completion"
GRID = [
    Settings(ctx=ctx, ubatch=ubatch, flash_attn=flash, cache_type_k=k, cache_type_v=k if flash else "f16")
    for ctx in (512, 4096, 32768)
    for ubatch in (64, 512)
    for flash, k in ((True, "f16"), (True, "q8_0"), (False, "f16"), (False, "q8_0"))
]


def logged(tool: str | Path, model: Path, settings: Settings, *arguments: str) -> dict[str, float]:
    """Return the MiB of each buffer that the engine logs, run with further arguments."""
    command = [str(tool), "-m", str(model), "-c", str(settings.ctx), "-ub", str(settings.ubatch)]
    command += ["-ctk", settings.cache_type_k, "-ctv", settings.cache_type_v, "-np", str(settings.parallel)]
    command += ["-fa", "on" if settings.flash_attn else "off"]
    command += ["-lv", "4", "--no-warmup", "-p", "x", "-n", "1", "--temp", "0", "-no-cnv", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    found = re.findall(r"CPU +(KV|RS|compute) buffer size = +([0-9.]+) MiB", done.stdout + done.stderr)
    if len(found) != 3:
        raise SystemExit(f"{tool} ended with {done.returncode} and logged {len(found)} of 3 buffers")
    return {name: float(size) for name, size in found}


def counted(model: Model, settings: Settings) -> dict[str, int]:
    """Return the bytes of the same buffers by our account."""
    memory, layers = Memory(model, settings), (0, model.n_blocks + 1)
    return {"KV": memory.kv(*layers), "RS": memory.rs(*layers), "compute": memory.compute(*layers, host=True)}


def main() -> None:
    """Print the table."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    path, tool = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else DEFAULT_TOOL
    model = Model.of(Gguf.read(path))
    print("| ctx | ubatch | flash attention | cache K, V | KV | recurrent | compute |")
    print("|--:" * 2 + "|---" * 5 + "|")
    worst = 0.0
    for settings in GRID:
        ours = counted(model, settings)
        cells = []
        for name, size in logged(tool, path, settings).items():
            mine = ours[name] / MIB
            # what is logged is rounded to 0.01
            worst = max(worst, (abs(mine - size) - 0.005) / size)
            cells.append(f"{mine:.2f} / {size:.2f}")
        caches = f"{settings.cache_type_k}, {settings.cache_type_v}"
        flash = "on" if settings.flash_attn else "off"
        print(f"| {settings.ctx} | {settings.ubatch} | {flash} | {caches} | {' | '.join(cells)} |")
    print(f"\nLargest difference: {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
