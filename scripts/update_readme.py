"""Write the quality table of the nano run into README.md, between its two marks.

usage: update_readme.py   (from the project's folder, after `make nano`)
"""

import json
from pathlib import Path
from typing import Any

from phase_twin.files import write_text

README = Path("README.md")
QUALITY = Path("results/nex-n2-nano/bench/quality.json")
BEGIN, END = "<!-- nano results: scripts/update_readme.py -->", "<!-- end -->"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of quality.json as a Markdown table."""
    lines = [
        "| | weights | expert bits | mean KLD | 99.9 % KLD | top-1 | PPL ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['label']} | {row['bytes'] / 2**20:.2f} MiB | {row['bpw_experts']:.2f} "
            f"| {row['kld_mean']:.4f} ± {row['kld_mean_err']:.4f} | {row['kld_p999']:.3f} "
            f"| {row['top1']:.2f} ± {row['top1_err']:.2f} % | {row['ppl_ratio']:.4f} ± {row['ppl_ratio_err']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    head, rest = README.read_text().split(BEGIN)
    _, tail = rest.split(END)
    text = table(json.loads(QUALITY.read_text()))
    write_text(README, f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()
