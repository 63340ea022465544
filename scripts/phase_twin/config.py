"""The configuration: typed, validated before the DAG is built, unknown keys refused."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
# names as llama-quantize takes them
QuantType = Literal[
    "IQ3_A770", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16",
]  # fmt: skip
RestType = Literal["Q6_K", "Q8_0"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Strict):
    """Which checkpoint, and what its products are called."""

    name: Name = Field(description="folder under results/")
    title: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="stem of the file names; general.name")
    checkpoint: str = Field(description="an entry of checkpoints in sources.yaml, or local:PATH")
    license: str = Field(description="licence of the weights, an SPDX id")
    tokenizer_pre: str | None = Field(description="pre-tokenizer to use where the converter does not know the hash")
    bf16_gib: float = Field(gt=0, description="size of the BF16 GGUF in GiB; scales the resources that rules ask for")


class Engine(_Strict):
    """Where llama.cpp comes from and what it is built for."""

    source: Literal["auto", "git", "sdist"] = Field(
        description="auto: git first, the sdist where git cannot be reached"
    )
    backend: Literal["cpu"] = Field(description="what to build for")


class Imatrix(_Strict):
    """The calibration run."""

    corpus: str = Field(description="an entry of texts in sources.yaml, or local:PATH")
    n_ctx: int = Field(ge=32, description="tokens per chunk")
    chunks: int | None = Field(ge=1, description="chunks to use; null = all")


class Recipe(_Strict):
    """The types of one variant, by tensor class."""

    gate: QuantType
    up: QuantType
    down: QuantType
    rest: RestType = Field(description="everything that is not a routed expert")

    @property
    def experts(self) -> dict[str, str]:
        """Expert tensor class -> type."""
        return {"gate": self.gate, "up": self.up, "down": self.down}


class Rank(_Strict):
    """How the groups are put in order of promotion."""

    method: Literal["imatrix_energy"]
    tie_gate_up: bool = Field(description="promote gate and up of a layer together or not at all")


class PruneTarget(_Strict):
    """One right-sized file; give vram_gib or budget_mb."""

    name: Name = Field(description="part of the file name and of the target prune_NAME")
    vram_gib: float | None = Field(default=None, gt=0, description="memory of the card in GiB")
    reserve_gib: float = Field(default=0.6, ge=0, description="GiB of it that are not for weights")
    budget_mb: int | None = Field(default=None, ge=1, description="MiB of weights")

    @model_validator(mode="after")
    def _one_budget(self) -> "PruneTarget":
        if (self.vram_gib is None) == (self.budget_mb is None):
            raise ValueError("give vram_gib or budget_mb, one of the two")
        return self


class Quality(_Strict):
    """KLD against the reference model."""

    corpus: str = Field(description="an entry of texts in sources.yaml, or local:PATH")
    chunks: int = Field(ge=1)
    n_ctx: int = Field(ge=128, description="tokens per chunk")
    reference: Literal["BF16", "Q6_K"] = Field(description="what the logits are compared with")


class Speed(_Strict):
    """llama-bench, interleaved over the files."""

    n_prompt: int = Field(ge=1)
    n_gen: int = Field(ge=1)
    repetitions: int = Field(ge=2, description="rounds over all files; mean and stddev are over rounds")


class Bench(_Strict):
    """What is measured."""

    quality: Quality
    speed: Speed


class Config(_Strict):
    """The whole configuration of a run."""

    model: Model
    engine: Engine
    imatrix: Imatrix
    variants: list[Recipe] = Field(min_length=2, max_length=2, description="variant 0 (small) and variant 1 (promoted)")
    rank: Rank
    prune_targets: list[PruneTarget]
    bench: Bench

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        low, high = self.variants
        if low.rest != high.rest:
            raise ValueError(
                f"variants: rest is {low.rest} in variant 0 and {high.rest} in variant 1, "
                "but is stored once: make them equal"
            )
        if low.experts == high.experts:
            raise ValueError("variants: both have the same expert types, so there is nothing to promote")
        names = [target.name for target in self.prune_targets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"prune_targets: the name {name!r} is given twice")
        return self


def load(raw: dict[str, Any]) -> Config:
    """Validate the merged YAML.

    Raises
    ------
    UserError
        one line per fault, with the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError("configuration refused:\n" + "\n".join(_explain(fault) for fault in error.errors())) from error


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"  {key}: unknown key; remove it or check its spelling"
    if fault["type"] == "missing":
        return f"  {key}: missing; add it (config/config.schema.json describes it)"
    if isinstance(fault["input"], dict):
        return f"  {key}: {what}" if key else f"  {what}"
    return f"  {key} = {fault['input']!r}: {what}"


def twin_hash(config: Config) -> str:
    """SHA-256 of the settings that decide the twin's bytes; benchmarks and prune targets are not among them."""
    settings = config.model_dump(include={"model", "imatrix", "variants", "rank"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def schema_json() -> str:
    """Return the JSON schema for editors; nothing is required, for a file may state only what differs."""
    schema = Config.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    return json.dumps(schema, indent=2) + "\n"
