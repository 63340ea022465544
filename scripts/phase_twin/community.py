"""Rows of speed that people send in: the files that release/bench-nx2.sh writes, kept in community/.

The models are the format; community/row.schema.json is generated from them.
"""

import datetime
import json
import re
import statistics
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError
from .strict import Strict, explain
from .wording import speed_text

FOLDER = Path("community")
SCHEMA = FOLDER / "row.schema.json"
# the folder in which a row lies
STATUSES = ("reported", "verified")
# the start of a path, and addresses; bench-nx2.py has the same
PLACE = re.compile(r"(?:^|[\s'\"(=:,])(?:~|/|\\\\|[A-Za-z]:[\\/])\S|://|@\w+\.")


def _tells_no_place(text: str) -> str:
    if PLACE.search(text):
        raise ValueError("may tell a folder or an address; remove that")
    return text


def _is_past(day: datetime.date) -> datetime.date:
    if day > datetime.datetime.now(datetime.UTC).date():
        raise ValueError("is in the future")
    return day


def _is_odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("must be odd, so that the median is a sample")
    return number


def _ascends(numbers: list[int]) -> list[int]:
    if any(first >= second for first, second in pairwise(numbers)):
        raise ValueError("must ascend")
    return numbers


Text = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f|]+$"), AfterValidator(_tells_no_place)]
Version = Annotated[str, Field(pattern=r"^(kernel )?[0-9]+(\.[0-9]+)*$", max_length=40)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Count = Annotated[int, Field(ge=1, lt=10**7)]
Depth = Annotated[int, Field(ge=0, lt=10**7)]
Rate = Annotated[float, Field(gt=0, lt=1e7, allow_inf_nan=False)]
Variant = Annotated[Literal[0, 1] | None, Field(description="of a twin: 0 = small, 1 = large; null = a plain file")]
ComputePath = Literal["live", "dormant"]
Test = Annotated[str, Field(pattern=r"^(pp|tg)[1-9][0-9]{0,6}$")]


class File(Strict):
    """The model's file."""

    name: Text | None = Field(description="general.name of its metadata")
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sha256_from: Literal["manifest.json", "file"] = Field(
        description="as released, where name and size agree with the manifest; or of the bytes themselves"
    )


class EngineFacts(Strict):
    """What llama-bench says it was built from; null where it does not."""

    base: Hash | None = Field(description="commit of llama.cpp")
    patch: Hash | None = Field(description="start of the SHA-256 of the release's patch")


class Machine(Strict):
    """What it ran on; no name of user or host."""

    backend: str = Field(pattern=r"^[A-Za-z]+$", max_length=20, description="of the devices that were taken, or CPU")
    driver: Version | None = Field(description="version of the cards' driver, or of the kernel that has it")
    system: str = Field(pattern=r"^[A-Za-z]+$", max_length=20)
    kernel: Version | None
    cpu: Text | None
    self_test: Literal["passed", "failed", "not run"] = Field(
        description="run-nx2.sh --self-test with this engine, card and driver"
    )


class Settings(Strict):
    """How it was measured; n_* and type_* are llama-bench's."""

    rounds: Annotated[int, AfterValidator(_is_odd)] = Field(ge=3, le=99, description="samples of each figure")
    depths: Annotated[list[Depth], AfterValidator(_ascends)] = Field(
        min_length=1, description="tokens in the context before the test"
    )
    tests: list[Test] = Field(
        min_length=2, max_length=2, description="ppN: reading a prompt of N tokens; tgN: generating N tokens"
    )
    paths: list[ComputePath] = Field(
        min_length=1,
        max_length=2,
        description="live: as the engine computes experts; dormant: with experts left as they are in the file, where "
        "the backend has that (SYCL, CPU)",
    )
    n_threads: Count
    n_batch: Count
    n_ubatch: Count
    n_gpu_layers: int = Field(ge=-1, lt=10**6)
    type_k: Text
    type_v: Text

    @model_validator(mode="after")
    def _in_order(self) -> "Settings":
        if [test[:2] for test in self.tests] != ["pp", "tg"]:
            raise ValueError("tests: must be a prompt and a generation, such as pp512 and tg128")
        if self.paths not in (["live"], ["live", "dormant"]):
            raise ValueError("paths: must be live, or live and dormant")
        return self


class Phase(Strict):
    """What was loaded."""

    variant: Variant
    groups: int = Field(ge=0, description="tensors that have variants")
    promoted: int = Field(ge=0, description="those of them that were large")
    bytes: int = Field(ge=1, description="of the weights")
    devices: list[Text] = Field(min_length=1, max_length=64, description="as the backend names them")

    @model_validator(mode="after")
    def _has_groups(self) -> "Phase":
        if self.promoted > self.groups or (self.variant is None) != (self.groups == 0):
            raise ValueError("promoted tensors are among the groups, which a twin has and a plain file has not")
        return self


class Figure(Strict):
    """A speed, or why there is none."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["t_s", "samples"]}, {"required": ["error"]}]},
    )

    variant: Variant
    path: ComputePath
    depth: Depth
    test: Test
    t_s: Rate | None = Field(default=None, description="tokens per second: median of the samples")
    samples: list[Rate] | None = Field(default=None, description="one for each round, in order")
    error: (
        Literal[
            "the weights did not load",
            "the context could not be made",
            "the program failed",
            "two hours were not enough",
            "a smaller depth failed",
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _is_median(self) -> "Figure":
        if (self.error is None) != (self.t_s is not None) or (self.t_s is None) != (self.samples is None):
            raise ValueError("has either t_s and samples, or error")
        if self.samples and self.t_s != statistics.median(self.samples):
            raise ValueError(
                f"t_s is {self.t_s:g}, but the median of its samples is {statistics.median(self.samples):g}"
            )
        return self

    @property
    def text(self) -> str:
        """The speed and the standard deviation of its samples, or why it has none."""
        if self.t_s is None or self.samples is None:
            return str(self.error)
        return speed_text(self.t_s, statistics.stdev(self.samples))


class Row(Strict):
    """The speed of one file on one machine."""

    format: Literal[1]
    date: Annotated[datetime.date, AfterValidator(_is_past)] = Field(description="day of the measurement, UTC")
    file: File
    engine: EngineFacts
    machine: Machine
    settings: Settings
    phases: list[Phase] = Field(min_length=1, max_length=2)
    figures: list[Figure] = Field(description="of each phase, path, depth and test, in this order")

    @model_validator(mode="after")
    def _is_complete(self) -> "Row":
        asked = self.settings
        variants = [phase.variant for phase in self.phases]
        if len(set(variants)) < len(variants) or (len(variants) > 1 and None in variants):
            raise ValueError("phases: each variant of a twin stands there once, and nothing beside a plain file")
        expected = [*product(variants, asked.paths, asked.depths, asked.tests)]
        there = [(figure.variant, figure.path, figure.depth, figure.test) for figure in self.figures]
        for number, (wanted, found) in enumerate(zip(expected, there, strict=False)):
            if wanted != found:
                told = ", ".join(map(str, wanted))
                raise ValueError(f"figures.{number}: by phases and settings this is the place of {told}")
        if len(expected) != len(there):
            raise ValueError(f"figures: {len(there)}, but phases and settings have {len(expected)}")
        for number, figure in enumerate(self.figures):
            if figure.samples is not None and len(figure.samples) != asked.rounds:
                raise ValueError(f"figures.{number}: {len(figure.samples)} samples in {asked.rounds} rounds")
        if all(figure.error for figure in self.figures):
            raise ValueError("figures: none was measured")
        return self

    def lines(self) -> list[dict[str, Any]]:
        """What tables show: for each phase, path and depth the two figures with what was measured."""
        by_place = {(each.variant, each.path, each.depth, each.test): each for each in self.figures}
        names = {0: "small", 1: "large", None: "plain file"}
        tests = self.settings.tests
        return [
            {
                "file": self.file.name or self.file.sha256[:12],
                "phase": names[phase.variant],
                "device": ", ".join(phase.devices),
                "backend": " ".join(filter(None, (self.machine.backend, self.machine.driver))),
                "engine": "-".join(filter(None, (self.engine.base, self.engine.patch))) or "unknown",
                "self_test": self.machine.self_test,
                "path": path,
                "depth": depth,
                "tests": ", ".join(tests),
                "prompt": by_place[phase.variant, path, depth, tests[0]].text,
                "generation": by_place[phase.variant, path, depth, tests[1]].text,
                "date": self.date.isoformat(),
            }
            for phase, path, depth in product(self.phases, self.settings.paths, self.settings.depths)
        ]


def read_row(path: Path) -> Row:
    """Read a row.

    Raises
    ------
    UserError
        naming the file, and the first value that is wrong.
    """
    try:
        return Row.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error.errors()[0], str(SCHEMA))}") from error


def read_rows(paths: Iterable[Path]) -> list[tuple[str, Row]]:
    """Read rows of the folders in STATUSES: status and row, by file, device and status; raises like `read_row`."""
    rows = []
    for path in paths:
        status = path.parent.name
        if status not in STATUSES:
            raise UserError(f"{path}: rows lie in {FOLDER}/{' or '.join(STATUSES)}")
        rows.append((status, read_row(path)))
    return sorted(rows, key=lambda each: (each[1].file.name or "", each[1].phases[0].devices, each[0]))


def row_files(project: Path) -> list[Path]:
    """All rows of the project."""
    return sorted(path for status in STATUSES for path in (project / FOLDER / status).glob("*.json"))


def table_lines(rows: Iterable[tuple[str, Row]]) -> list[dict[str, Any]]:
    """The lines of all rows, each with its status."""
    return [{"status": status, **line} for status, row in rows for line in row.lines()]


def row_schema() -> str:
    """Return the JSON schema of a row."""
    return json.dumps(Row.model_json_schema(), indent=2) + "\n"
