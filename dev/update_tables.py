"""Write the measured tables into README.md and docs/, between their marks.

usage: dev/run update_tables [--measured]   (from the project's folder, after `make nano` and the studies)

--measured writes only what was made by a run of its own: bench_cpu, mutate, trace_sycl, study_ranking, and a
nested twin beside the siblings (docs/ranking.md has the command); and the rows of community/.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from compare_curves import curve_tables, draw, read_curve
from markdown_table import markdown
from mutate import report_of
from phase_twin.active_weights import of_one_token
from phase_twin.community import Row, read_rows, row_files, table_lines
from phase_twin.files import write_text
from phase_twin.mini_cards import cards_table
from phase_twin.plots import save
from phase_twin.positions import Positions
from phase_twin.quality import compare
from phase_twin.results import read_result
from phase_twin.side_by_side import DECODE, DOT, PROMPT
from phase_twin.wording import NOT_SETTLED, beside, is_settled, signed
from prune_dual import Gguf
from scaling import disk_table, rates, steps_table
from trace_sycl import REPORT as COST

RESULTS = Path("results/nex-n2-nano")
# the same with `variants: nested`
NESTED = Path("results/nex-n2-nano-nested")
CPU = RESULTS / "cpu"
MODEL = Path("resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf")
PROGRAMS = Path("resources/engine/cpu/bin")


# of the studies of a nested twin: what is compared, and what with
LARGE_PHASES = {
    "q4_k": "Q4_K",
    "q4_k-feedback": "Q4_K with feedback",
    "iq4_xs": "IQ4_XS",
    "iq4_xs-feedback": "IQ4_XS with feedback",
    "iq4_a770-search": "IQ4_A770, no feedback",
    "iq4_a770-half": "IQ4_A770, weight 0.5",
    "iq4_a770-1": "IQ4_A770, weight 1",
    "iq4_a770": "**IQ4_A770, weight 2**, the default",
    "q5_k": "Q5_K",
}
SMALL_PHASES = {
    "iq3_a770": "IQ3_A770 by itself",
    "iq4_a770-half-base": "weight 0.5",
    "iq4_a770-1-base": "weight 1",
    "iq4_a770-base": "**weight 2**",
}


def named(rows: list[dict[str, Any]]) -> str | None:
    """To which row the others' differences are given."""
    return next((row["difference"]["to"] for row in rows if row["difference"]), None)


def quality_table(rows: list[dict[str, Any]]) -> str:
    """Return rows of quality.json (or of the study) as a table."""
    base = named(rows)
    head = ["", "weights", "expert bits", "mean KLD", *([f"KLD to {base}"] if base else []), "99.9 % KLD", "top-1"]
    head += ["PPL ratio"]
    cells = [
        [
            row["label"],
            f"{row['bytes'] / 2**20:.2f} MiB",
            f"{row['bpw_experts']:.2f}",
            f"{row['kld_mean']:.4f} ± {row['kld_mean_err']:.4f}",
            *([beside(row["difference"]["kld_mean"], 4) if row["difference"] else ""] if base else []),
            f"{row['kld_p999']:.3f}",
            f"{row['top1']:.2f} ± {row['top1_err']:.2f} %",
            f"{row['ppl_ratio']:.4f} ± {row['ppl_ratio_err']:.4f}",
        ]
        for row in rows
    ]
    return markdown(head, cells)


def encoder_table(output: str) -> str:
    """Return test-iq3-a770's table of relative RMSE."""
    head = ["", "plain", "search", "plain, prototype", "search, prototype", "best", "search", "best, imatrix", "search"]
    pattern = r"^(Gaussian|Laplace|Student-t5) +\|(.*)$"
    rows = [[name, *re.findall(r"[\d.]+", rest)] for name, rest in re.findall(pattern, output, re.MULTILINE)]
    return markdown(head, rows)


def throughput_table(output: str) -> str:
    """Return test-iq3-a770's table of speeds."""
    head = ["type", "bits per weight", "MB/s of F32", "of Q4_K", "relative RMSE", "with imatrix"]
    found = re.findall(r"^(\w+) +\| +([\d.]+) \| +([\d.]+) \| +([\d.]+) +([\d.]+)$", output, re.MULTILINE)
    (base,) = (float(speed) for name, speed, *_ in found if name.lower() == "q4_k")
    rows = [
        [name.upper(), bpw, speed, f"{float(speed) / base:.1f} x", plain, weighted]
        for name, speed, bpw, plain, weighted in found
    ]
    return markdown(head, rows)


def shapes_table(output: str) -> str:
    """Return test-iq3-a770's table of errors on experts of full size."""
    (shapes,) = re.findall(r"^columns x rows .*$", output, re.MULTILINE)
    names = [
        f"{shape}: {name}" for shape in re.findall(r"(\d+ x \d+):", shapes) for name in ("Gaussian", "Laplace", "t5")
    ]
    found = re.findall(
        r"^(\w+) +\| +([\d.]+) \| ([\d.]+ [\d.]+ [\d.]+) \| ([\d.]+ [\d.]+ [\d.]+) \|$", output, re.MULTILINE
    )
    rows = [[kind.upper(), bpw, *first.split(), *second.split()] for kind, bpw, first, second in found]
    return markdown(["type", "bits per weight", *names], rows)


def feedback_table(output: str) -> str:
    """Return test-iq3-a770-feedback's table of speeds."""
    found = re.findall(r"^feedback, +(\d+) columns +\| +([\d.]+) \| ([\d.]+)$", output, re.MULTILINE)
    head = ["columns", "MB/s of F32, one thread", "seconds for the factor of R, once per layer or expert"]
    return markdown(head, [list(row) for row in found])


def codebooks_table(rows: list[dict[str, Any]]) -> str:
    """Return rows of codebooks.json as a table; errors are those over runs."""
    head = ["", "K", "relative RMSE", "beside version 1", "mean KLD", f"to {named(rows)}", "99.9 % KLD", "top-1"]
    head += ["PPL ratio"]
    (base,) = (row["rmse"] for row in rows if row["codebook"] == "version-1")
    cells = [
        [
            row["codebook"],
            ", ".join(map(str, row["table"])),
            f"{row['rmse']:.4f}",
            f"{100 * (row['rmse'] / base - 1):+.1f} %",
            f"{row['kld_mean']:.5f} ± {row['kld_mean_run_err']:.5f}",
            beside(row["difference"]["kld_mean"], 5) if row["difference"] else "",
            f"{row['kld_p999']:.3f} ± {row['kld_p999_run_err']:.3f}",
            f"{row['top1']:.2f} ± {row['top1_run_err']:.2f} %",
            f"{row['ppl_ratio']:.4f} ± {row['ppl_ratio_run_err']:.4f}",
        ]
        for row in rows
    ]
    return markdown(head, cells)


def phases_table(folder: Path, head: str, base: str, names: dict[str, str]) -> str:
    """Return rows of the study beside another one than it names itself, from what was kept by position.

    Parameters
    ----------
    folder
        that of the rows, `study-NAME.json` and `.npz`.
    head
        what the first column is called.
    base
        NAME of the row that differences are to.
    names
        NAME -> what the table calls it.
    """
    reference = Positions.load(folder / f"study-{base}.npz")
    cells = []
    for name, label in names.items():
        row, found = read_result(folder / f"study-{name}.json"), Positions.load(folder / f"study-{name}.npz")
        kld = f"{row['kld_mean']:.4f} ± {row['kld_mean_err']:.4f}"
        difference = "" if name == base else beside(compare(found, reference)["kld_mean"], 4)
        tail = [f"{row['kld_p999']:.3f}", f"{row['kld_max']:.2f}", f"{row['top1']:.2f} %"]
        cells.append([label, f"{row['bpw_experts']:.4g}", kld, difference, *tail])
    columns = [head, "bits", "mean KLD", f"to {names[base]}", "99.9 % KLD", "largest", "top-1"]
    return markdown(columns, cells)


def mutants_table(rows: list[dict[str, Any]]) -> str:
    """Return rows of a backend's report on faults as a table."""
    tests = list(max((row["caught_by"] for row in rows), key=len))
    cells = []
    for row in rows:
        found = [row["caught_by"].get(test, "not tried") or "-" for test in tests]
        cells.append([row["mutant"], row["file"], *(["missed", *found[1:]] if set(found) == {"-"} else found)])
    return markdown(["planted fault", "file", *tests], cells)


def ranking_table(study: dict[str, Any]) -> str:
    """Return the study of orders as a table: best order first."""
    orders = sorted(study["orders"], key=lambda order: order["area"])
    percents = [row["percent"] for row in orders[0]["rows"]]
    head = ["order", "mean KLD over all budgets", f"to {named(orders)}", *(f"+{percent} %" for percent in percents)]
    cells = [
        [
            order["order"],
            f"{order['area']:.4f} ± {order['area_err']:.4f}",
            beside(order["difference"]["area"], 4) if order["difference"] else "",
            *(f"{row['closed']:.0f} ± {row['closed_err']:.0f} %" for row in order["rows"]),
        ]
        for order in orders
    ]
    return markdown(head, cells)


def selection_table(study: dict[str, Any]) -> str:
    """Return how far each order's selection is from the best one for the benefits that the order goes by."""
    percents = [row["percent"] for row in study["orders"][0]["selection"]]
    cells = [
        [order["order"], *(f"{row['selected']:.1f} of {row['optimum']:.1f} %" for row in order["selection"])]
        for order in study["orders"]
    ]
    return markdown(["order", *(f"+{percent} %" for percent in percents)], cells)


def sums_table(scores: dict[str, Any]) -> str:
    """Return what groups save alone and as the last one, of what all save together."""
    found = scores["sums"]
    cells = [f"{100 * found[name]['share']:.0f} ± {100 * found[name]['err']:.0f} %" for name in ("alone", "last")]
    share = {key: value if key == "z" else 100 * value for key, value in found["difference"].items()}
    head = ["sum of what each group saves alone", "promoted last", "difference"]
    return markdown(head, [[*cells, f"{signed(share, 0)} %"]])


def cost_table(report: dict[str, Any]) -> str:
    """Return sycl-cost.json as a table."""
    cards = list(report["bandwidth_gb_s"])
    head = ["experts", "path", "kernels", "copies", "host waits", "GB of weights", "G int8 multiplications"]
    cells = [
        [
            row["experts"],
            row["path"],
            *(f"{row['per_token'][kind]:,}" for kind in ("kernels", "copies", "waits")),
            f"{row['weight_bytes'] / 1e9:.2f}",
            f"{row['int8_operations'] / 1e9:.2f}",
            *(f"{row['expected_tokens_per_second'][card]:.0f}" for card in cards),
        ]
        for row in report["rows"]
    ]
    rates = [f"tokens/s expected, {card} ({report['bandwidth_gb_s'][card]:.0f} GB/s)" for card in cards]
    table = markdown([*head, *rates], cells)
    if "kernels_per_layer_of_a_prompt" not in report:
        return table
    prompt = [f"{name} {kernels:,}" for name, kernels in report["kernels_per_layer_of_a_prompt"].items()]
    return f"{table}\n\nKernels of one layer for a prompt of about 450 tokens, experts IQ3_A770: {', '.join(prompt)}."


def cpu_table(report: dict[str, Any]) -> str:
    """Return cpu/FORM.json as a line on how it was measured, its tables, and its picture."""
    limit, measured = f"more than {100 * report['spread_limit']:g} %", report["rounds_measured"]
    told = (
        f"in the last {report['rounds_used']} of {measured} rounds no ratio that is asked for spread {limit}"
        if report["settled"]
        else f"**the machine did not come to rest**: in {measured} rounds ratios that are asked for spread {limit}"
    )
    head = ["experts", "cycles per 32 weights", f"{PROMPT}, tokens/s", f"{DECODE}, tokens/s", "MB of weights per token"]
    head += ["GB/s", "of the read bandwidth", "repacked MiB"]

    def figure(row: dict[str, Any], test: str, digits: int) -> str:
        if test not in row:
            return ""
        settled = is_settled(row[test], row["spread"][test] * row[test])
        return f"{row[test]:.{digits}f}" if settled else NOT_SETTLED

    types = [
        [
            row["type"],
            figure(row, DOT, 2),
            figure(row, PROMPT, 1),
            figure(row, DECODE, 1),
            f"{row['token_bytes'] / 1e6:.0f}",
            f"{row['gb_s']:.1f}" if is_settled(1, row["spread"][DECODE]) else NOT_SETTLED,
            f"{100 * row['of_bandwidth']:.0f} %" if is_settled(1, row["spread"][DECODE]) else NOT_SETTLED,
            f"{row['buffers_mib'].get('CPU_REPACK', 0):.0f}",
        ]
        for row in report["types"]
    ]

    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.2f} x"

    ratios = [
        [
            row["type"],
            f"{row['test']} / {row['base']}",
            times(row["ratio"]) if is_settled(1, row["spread"]) else NOT_SETTLED,
            f"{100 * row['spread']:.1f} %",
            *(times(row[key]) for key in ("least", "stretch", "bytes_allow")),
        ]
        for row in report["ratios"]
    ]
    where = f"{report['device']}, {report['threads']} threads; read bandwidth {report['read_gb_s']:.1f} GB/s; {told}."
    second = ["experts", "test / beside", "median", "spread", "asked", "hoped for", "if only bytes counted"]
    models = report["models"]
    picture = f"![How many times as fast our types are as stock ones, {models} models](iq3_a770-cpu-{models}.svg)"
    return "\n\n".join([where, markdown(head, types), markdown(second, ratios), picture])


def community_table(rows: list[tuple[str, Row]]) -> str:
    """Return the rows that were sent in, each with its status, as a table; or that there are none."""
    if not rows:
        return "No row has been sent in yet."
    heads = {
        "status": "",
        "file": "model",
        "phase": "phase",
        "device": "device",
        "backend": "backend, driver",
        "engine": "engine",
        "self_test": "self-test",
        "path": "path",
        "depth": "tokens in the context",
        "tests": "tests",
        "prompt": "reading a prompt",
        "generation": "generating",
        "date": "date",
    }
    return markdown([*heads.values()], [[str(line[key]) for key in heads] for line in table_lines(rows)])


def replace(path: Path, mark: str, table: str) -> None:
    """Put `table` between the marks of that name in the file."""
    begin, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
    head, rest = path.read_text().split(begin)
    write_text(path, f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}")


def run(program: str, *arguments: str) -> str:
    """Return what a program of the engine prints."""
    return subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, text=True).stdout


def write_measured() -> None:
    """Write what has a run of its own, where that was made here, and what was sent in."""
    replace(Path("docs/speed.md"), "community", community_table(read_rows(row_files(Path()))))
    for page, mark, path, table in (
        *(("docs/iq3_a770.md", f"cpu {form}", CPU / f"{form}.json", cpu_table) for form in ("pure", "mixed")),
        ("docs/sycl.md", "mutants", report_of("sycl"), mutants_table),
        ("docs/gpu.md", "mutants", report_of("vulkan"), mutants_table),
        ("docs/sycl.md", "cost", COST, cost_table),
        ("docs/ranking.md", "orders", RESULTS / "study/ranking.json", ranking_table),
        ("docs/ranking.md", "selection", RESULTS / "study/ranking.json", selection_table),
        ("docs/ranking.md", "sums", RESULTS / "rank/scores-measured.json", sums_table),
    ):
        if path.exists():
            replace(Path(page), mark, table(read_result(path)))
    for plot in CPU.glob("*.svg"):
        shutil.copyfile(plot, f"docs/iq3_a770-cpu-{plot.name}")
    if (NESTED / "curve.json").exists():
        curves = read_curve(RESULTS), read_curve(NESTED)
        picture = "![Mean KLD over loaded bytes: a line for siblings, one for the nested twin](curves.svg)"
        replace(Path("docs/ranking.md"), "curves", f"{curve_tables(*curves)}\n\n{picture}")
        save(draw(*curves), "docs/curves.svg")


def main() -> None:
    """Write all tables, or those that are measured apart."""
    write_measured()
    if sys.argv[1:] == ["--measured"]:
        return
    readme, page = Path("README.md"), Path("docs/iq3_a770.md")
    replace(readme, "cards", markdown(*cards_table()))
    replace(readme, "nano results", quality_table(read_result(RESULTS / "bench/quality.json")))
    shutil.copyfile(RESULTS / "bench/quality.svg", "docs/quality.svg")
    replace(page, "study", quality_table(read_result(RESULTS / "study/recipes.json")))
    rows = RESULTS / "bench/quality"
    replace(page, "large phases", phases_table(rows, "experts", "q4_k", LARGE_PHASES))
    replace(page, "small phases", phases_table(rows, "the IQ3_A770 in it", "iq3_a770", SMALL_PHASES))
    replace(page, "codebooks", codebooks_table(read_result(RESULTS / "study/codebooks.json")))
    timing = read_result(RESULTS / "report/timing.json")
    active = of_one_token(Gguf.read(MODEL), lambda tensor: tensor.n_elements)
    rules = "".join(path.read_text() for path in sorted(Path("rules").glob("*.smk")))
    scaling = Path("docs/scaling.md")
    replace(scaling, "steps", markdown(*steps_table(rates(timing, active), rules)))
    replace(scaling, "disk", markdown(*disk_table()))
    output = run("test-iq3-a770", "--speed", "--shapes")
    replace(page, "encoder", encoder_table(output))
    replace(page, "throughput", throughput_table(output))
    replace(page, "shapes", shapes_table(output))
    replace(page, "feedback", feedback_table(run("test-iq3-a770-feedback", "--speed")))


if __name__ == "__main__":
    main()
