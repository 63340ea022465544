"""What a release shows: the result files it is rendered from, and the templates."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jinja2
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from .errors import UserError
from .results import read_result
from .wording import NOT_SETTLED, beside, speed_text

# what may stand in a single-quoted string of a shell script
SHELL_SAFE = re.compile(r"[A-Za-z0-9._/:+@=-]*\Z")

Positive = Annotated[float, Field(ge=0)]


class Difference(BaseModel):
    """A difference to another row, its standard error, and how many of these it is."""

    diff: float
    err: Positive
    z: float


class Differences(BaseModel):
    """What a row of bench/quality.json differs in from the row labelled `to`."""

    to: str
    kld_mean: Difference
    top1: Difference


class QualityRow(BaseModel):
    """One row of bench/quality.json; `top1` in percent, KLD in nats, `bytes` as loaded."""

    file: str
    label: str
    bytes: Annotated[int, Field(ge=0)]
    bpw_experts: Positive
    reference: str
    chunks: int
    chunks_asked: int
    n_ctx: int
    kld_mean: float
    kld_mean_err: Positive
    kld_99: float
    kld_p999: float
    kld_max: float
    kld_median: float
    top1: Positive
    top1_err: Positive
    ppl_ratio: Positive
    ppl_ratio_err: Positive
    difference: Differences | None


class Kinds(BaseModel):
    """What the card takes from bench/kinds.json, or kind.json, which also has `why`; the refined phase is first."""

    rows: list[QualityRow]
    why: str | None = None


class SpeedRow(BaseModel):
    """One row of bench/speed.json; `t_s` in tokens per second, `depth` in tokens."""

    file: str
    label: str
    backend: str
    device: str
    test: str
    depth: Annotated[int, Field(ge=0)]
    t_s: Positive
    stddev: Positive


class Curve(BaseModel):
    """What the card takes from curve.json."""

    order: str


class Calibration(BaseModel):
    """What the card takes from rank/calibration.json."""

    experts: Annotated[int, Field(ge=0)]
    without_data: Annotated[int, Field(ge=0)]
    chunks: int
    chunks_asked: int | None
    n_ctx: int


class Selection(BaseModel):
    """What prune-dual.py --json prints."""

    budget_bytes: int
    variant0_bytes: int
    selected_bytes: int
    promoted: list[str]


_T = TypeVar("_T")


def read_results(path: str | os.PathLike[str], kind: type[_T]) -> _T:
    """Read a result file and check it has what the card shows.

    Raises
    ------
    UserError
        naming the file and the first value that is missing or wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(read_result(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {key + ': ' if key else ''}{first['msg'].lower()}") from error


def format_size(count: float) -> str:
    """Bytes for people: 14.85 GiB, or MiB below one GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


def format_count(count: int) -> str:
    """Weights for people: 34.7 billion, or million below one billion."""
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def render(template: str, context: dict[str, Any], name: str, safe: Callable[[Any], Any] | None = None) -> str:
    """Fill one template, told as `name`; a value that is missing is an error, and `safe` sees every value."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=safe,
    )
    environment.filters |= {"size": format_size, "fixed": lambda value, digits: f"{value:.{digits}f}", "cell": cell}
    environment.filters |= {"number": format_count}
    environment.filters |= {"beside": beside, "speed": lambda row: speed_text(row["t_s"], row["stddev"])}
    environment.filters |= {"taken": text_taken}
    try:
        return environment.from_string(template).render(context)
    except jinja2.TemplateError as error:
        raise UserError(f"{name}: {error}") from error


def text_taken(facts: dict[str, Any]) -> str:
    """How much of a text was taken, and whether that is less than asked for: 40 chunks of 512 tokens."""
    asked = facts["chunks_asked"] or 0
    fewer = f" ({asked} were asked for, the text has no more)" if facts["chunks"] < asked else ""
    return f"{facts['chunks']} chunks of {facts['n_ctx']} tokens{fewer}"


def cell(value: object) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def shell_safe(value: object) -> object:
    """Let `value` through if it is harmless between single quotes of a shell script."""
    if not SHELL_SAFE.match(str(value)):
        raise UserError(
            f"{value!r} cannot go into the release's shell scripts; use letters, digits and . _ / : + @ = -"
        )
    return value


def render_card(template: str, context: dict[str, Any]) -> str:
    """Fill the model card, without runs of empty lines."""
    return re.sub(r"\n{3,}", "\n\n", render(template, context, "model card"))


def card_context(
    *,
    model: dict[str, Any],
    engine: dict[str, Any],
    texts: dict[str, str],
    variants: list[dict[str, str]],
    types: list[dict[str, dict[str, int]]],
    calibration: Calibration,
    stock: dict[str, dict[str, str]],
    twin: dict[str, Any],
    mmproj: dict[str, Any] | None,
    quality: list[QualityRow],
    kinds: Kinds | None,
    speed: list[SpeedRow],
    order: str,
    fits: list[dict[str, Any]],
    provenance: dict[str, str | int],
    patch_sha256: str,
    release: dict[str, str | None],
) -> dict[str, Any]:
    """Gather what the templates show: every number comes from a result file or from a file's size.

    Parameters
    ----------
    types
        what verify.json counts in each variant: class -> type -> tensors.
    stock
        label of each recipe that was measured beside the twin -> its types.
    release
        `repo` on the hub and `identity` of who signs, each None if there is none.
    """

    def titled(row: QualityRow | SpeedRow) -> dict[str, Any]:
        return row.model_dump() | {"title": row_title(row, twin["name"], stock)}

    commands = {f"variant-{number}": f"./run-nx2.sh --sm {mode}" for number, mode in enumerate(("off", "on"))}
    commands |= {fit["name"]: fit["command"] for fit in fits}
    base = next((row.difference.to for row in quality if row.difference), None)
    forms = [titled(row) | {"command": commands[row.label]} for row in quality if row.label in commands]
    return {
        "model": model,
        "engine": engine,
        "texts": texts,
        "variants": [with_facts(*pair) for pair in zip(variants, types, strict=True)],
        "types": [{name: counted(counts) for name, counts in each.items()} for each in types],
        "calibration": calibration.model_dump(),
        "stock": stock,
        "twin": twin,
        "mmproj": mmproj,
        "forms": sorted(forms, key=lambda form: form["bytes"]),
        "kinds": kinds.model_dump() if kinds else None,
        "compared_to": next((titled(row)["title"] for row in quality if row.label == base), None),
        "not_settled": NOT_SETTLED,
        "settings": group_rows(map(titled, quality), ("reference", "chunks", "chunks_asked", "n_ctx")),
        "machines": group_rows(map(titled, speed), ("device", "backend")),
        "order": order,
        "fits": fits,
        "provenance": provenance,
        "patch": {"sha256": patch_sha256},
        "release": release,
    }


def counted(counts: dict[str, int]) -> str:
    """Types by number of tensors: 8 IQ3_A770, 2 Q4_K."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def with_facts(asked: dict[str, str], types: dict[str, dict[str, int]]) -> dict[str, str]:
    """What a recipe says of each class of experts, or what the file has where that is something else."""
    odd = {name for name in ("gate", "up", "down") if any(kind not in asked[name] for kind in types[name])}
    return {name: f"{counted(types[name])}, not {kind}" if name in odd else kind for name, kind in asked.items()}


def group_rows(rows: Iterable[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Put rows that agree in `keys` together: each group has these and its `rows`, in the order they come in."""
    groups: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        shared = {key: row[key] for key in keys}
        groups.setdefault(tuple(shared.values()), shared | {"rows": []})["rows"].append(row)
    return list(groups.values())


def row_title(row: QualityRow | SpeedRow, twin: str, stock: dict[str, dict[str, str]]) -> str:
    """What a measured row is called: the phase of the twin, the file cut from it, or the stock type."""
    if row.label in stock:
        types = {stock[row.label][name] for name in ("gate", "up", "down")}
        return f"stock {types.pop()}" if len(types) == 1 else f"stock recipe {row.label}"
    phases = {"variant-0": "small phase (variant 0)", "variant-1": "large phase (variant 1)"}
    return phases.get(row.label, row.label) if Path(row.file).name == twin else f"cut to {row.label}"


def describe_fits(
    targets: Sequence[dict[str, Any]], pruned: Sequence[str], selections: Sequence[Selection]
) -> list[dict[str, Any]]:
    """One row per pruned file: what was asked for and what was kept."""
    rows = []
    for target, file, selection in zip(targets, pruned, selections, strict=True):
        if target.get("vram_gib") is not None:
            asked = f"--vram-gib {target['vram_gib']:g} --ctx {target['ctx']}"
            command = f"./install-nx2.sh {asked}"
        else:
            asked = f"--budget-mb {target['budget_mb']}"
            command = f"./run-nx2.sh --budget-mib {target['budget_mb']}"
        rows.append(
            {
                "name": target["name"],
                "command": command,
                "file": Path(file).name,
                "asked": f"`{asked}`",
                "budget_bytes": selection.budget_bytes,
                "selected_bytes": selection.selected_bytes,
                "promoted": len(selection.promoted),
            }
        )
    return rows
