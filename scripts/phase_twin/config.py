"""The configuration: typed, validated before the DAG is built, unknown keys refused."""

import hashlib
import itertools
import json
import re
from typing import Annotated, Any, Literal, get_args

from huggingface_hub.utils import HFValidationError, validate_repo_id
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from prune_dual.container.tensor_types import BLOCK_SIZES, NAMES

from .engine import N_BATCH
from .errors import UserError
from .licenses import spdx_spelling

MAX_NAME = 100  # characters: file systems take 255 bytes for a name, and others are added
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_NAME)]
# names as llama-quantize takes them
QuantType = Literal[
    "IQ3_A770", "IQ4_A770", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16",
]  # fmt: skip
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
RestType = Literal["Q6_K", "Q8_0"]
OUR_TYPES = ("IQ3_A770", "IQ4_A770")
TYPE_IDS = {name: kind for kind, name in NAMES.items()}
RestClass = Literal["token_embd", "output", "attention", "delta_net", "shared_experts"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_spdx(name: str) -> str:
    if (known := spdx_spelling(name)) != name:
        raise ValueError(f"SPDX writes it {known}")
    return name


class Model(_Strict):
    """Which checkpoint, and what its products are called."""

    name: Name = Field(description="folder under results/")
    title: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=MAX_NAME,
        description="stem of the file names; general.name",
    )
    checkpoint: str = Field(description="an entry of checkpoints in sources.yaml, or local:PATH")
    license: Annotated[str, AfterValidator(_is_spdx)] = Field(description="licence of the weights, an SPDX id")
    tokenizer_pre: str | None = Field(description="pre-tokenizer to use where the converter does not know the hash")
    vision_tower: bool | None = Field(
        default=None, description="whether it has one, for an mmproj; null = see a local one, expect it from the hub"
    )
    mtp: Literal["drop", "keep"] = Field(
        default="drop", description="an MTP head's weights: leave them out, or store them at Q8_0"
    )
    bf16_gib: float = Field(
        gt=0, lt=1e6, description="size of the BF16 GGUF in GiB; scales the resources that rules ask for"
    )
    moe_layers: int = Field(ge=1, description="layers with routed experts; checked against the tensors")
    dense_layers: int = Field(default=0, ge=0, description="layers without, which stand before them; checked too")

    @property
    def expert_layers(self) -> range:
        """Numbers of the layers with routed experts."""
        return range(self.dense_layers, self.dense_layers + self.moe_layers)


class Engine(_Strict):
    """Where llama.cpp comes from and what it is built for."""

    source: Literal["auto", "git", "sdist"] = Field(
        description="auto: git first, the sdist where git cannot be reached"
    )
    backend: Literal["cpu", "sycl"] = Field(
        description="what measures; models are always converted and quantized by the build for the CPU"
    )
    sycl_f16: bool = Field(default=False, description="let SYCL kernels calculate in half precision: GGML_SYCL_F16")


class _Chunks(_Strict):
    """A run over the chunks of a text, which jobs can share."""

    corpus: str = Field(description="an entry of texts in sources.yaml, or local:PATH")
    n_ctx: int = Field(ge=32, description="tokens per chunk")
    chunks: int | None = Field(ge=1, description="chunks to use; null = all")
    parts: int = Field(ge=1, description="jobs that share the chunks, for a cluster; needs `chunks`")

    @model_validator(mode="after")
    def _parts_have_chunks(self) -> "_Chunks":
        if self.parts > 1 and (self.chunks is None or self.chunks < self.parts * self.at_once):
            raise ValueError(f"{self.parts} parts need `chunks`, {self.at_once} for each at least")
        return self

    @property
    def at_once(self) -> int:
        """Chunks that llama-imatrix and llama-perplexity take in one batch."""
        return max(1, N_BATCH // self.n_ctx)

    def ranges(self) -> list[tuple[int, int]]:
        """First chunk and number of chunks of each part: whole batches, as a single run has them, for equal results."""
        chunks = self.chunks or 0
        batches = chunks // self.at_once
        starts = [part * batches // self.parts * self.at_once for part in range(self.parts)]
        return [(start, end - start) for start, end in itertools.pairwise([*starts, chunks])]


class Imatrix(_Chunks):
    """The calibration run."""


def _or_plain_type(schema: dict[str, Any]) -> None:
    """Let editors accept `down: Q4_K` for `down: {type: Q4_K}`."""
    mixed = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"enum": list(get_args(QuantType)), "type": "string"}, mixed]


class ExpertTypes(_Strict):
    """The type of one class of expert tensors, and of some layers another one; a plain name means all layers."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_or_plain_type)

    type: QuantType = Field(description="of all layers that are not raised")
    raised: QuantType | None = Field(default=None, description="of the layers named by `layers` or `top`")
    layers: list[int] | None = Field(default=None, min_length=1, description="layers to raise")
    top: int | None = Field(default=None, ge=1, description="raise so many layers, most important first")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _which_layers(self) -> "ExpertTypes":
        if (self.raised is not None) != ((self.layers is not None) or (self.top is not None)):
            raise ValueError("`raised` needs `layers` or `top`, and they need `raised`")
        if self.layers is not None and self.top is not None:
            raise ValueError("give `layers` or `top`, one of the two")
        return self


PLAIN = ExpertTypes(type="F16").model_dump(exclude={"type"})


def _bits(quant_type: str) -> float:
    """Bits per weight of a type."""
    block, nbytes = BLOCK_SIZES[TYPE_IDS[quant_type]]
    return 8 * nbytes / block


class Recipe(_Strict):
    """The types of one variant, by tensor class."""

    gate: ExpertTypes
    up: ExpertTypes
    down: ExpertTypes
    rest: RestType = Field(description="everything that is not a routed expert")
    rest_classes: dict[RestClass, RestType] = Field(default={}, description="classes of the rest with another type")
    strict: bool = Field(
        default=False, description="stop where expert tensors cannot have their type, for the width of their rows"
    )
    feedback: bool = Field(
        default=True, description="encode IQ3_A770 and IQ4_A770 with error feedback: better, and slower"
    )
    refined_weight: float = Field(
        default=2.0, gt=0, lt=100, description="what the error of IQ4_A770 counts beside that of the IQ3_A770 in it"
    )

    @property
    def experts(self) -> dict[str, dict[str, Any]]:
        """Expert tensor class -> its types, as plain data."""
        return {name: getattr(self, name).model_dump() for name in ("gate", "up", "down")}

    def describe(self) -> dict[str, str]:
        """Return what the model card says of each class."""
        told = {}
        for name, types in self.experts.items():
            raised = f", {types['raised']} in {types['top'] or len(types['layers'])} layers" if types["raised"] else ""
            told[name] = types["type"] + raised
        others = "".join(f", {name} {kind}" for name, kind in self.rest_classes.items())
        return told | {"rest": self.rest + others}

    def uses(self, quant_type: str) -> bool:
        """Whether some expert tensors are of this type."""
        return any(quant_type in (types["type"], types["raised"]) for types in self.experts.values())

    def expert_bits(self, layers: int) -> float:
        """Bits per weight of the experts in a model with so many layers of them."""
        bits = 0.0
        for types in self.experts.values():
            raised = types["top"] or len(types["layers"] or ())
            bits += _bits(types["type"]) * (layers - raised) + _bits(types["raised"] or types["type"]) * raised
        return bits / layers / len(self.experts)

    @property
    def uses_ours(self) -> bool:
        """Whether some expert tensors are of a type of ours."""
        return any(map(self.uses, OUR_TYPES))

    @property
    def needs_covariance(self) -> bool:
        """Whether some expert tensors are encoded with error feedback."""
        return self.feedback and self.uses_ours


def _uniform(quant_type: str) -> dict[str, str]:
    return {**dict.fromkeys(("gate", "up", "down"), quant_type), "rest": "Q6_K"}


# what a twin is by one word
TWINS = {"siblings": [_uniform("IQ3_A770"), _uniform("Q4_K")], "nested": [_uniform("IQ3_A770"), _uniform("IQ4_A770")]}


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in TWINS:
        raise ValueError(f"is neither a list of two recipes nor one of {', '.join(TWINS)}")
    return TWINS[value]


def _or_name(schema: dict[str, Any]) -> None:
    """Let editors accept `variants: nested`."""
    recipes = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"enum": list(TWINS), "type": "string"}, recipes]
    schema["description"] = recipes.pop("description")


RankMethod = Literal["measured", "weighted_error", "imatrix_energy", "first_layers", "random"]


class Rank(_Strict):
    """How the groups are put in order of promotion."""

    method: RankMethod = Field(description="what tells the benefit of promoting a group; `study_ranking` compares them")
    tie_gate_up: bool = Field(description="promote gate and up of a layer together or not at all")
    chunks: int = Field(ge=1, description="chunks of the calibration text on which each group is measured")
    curve: list[Annotated[int, Field(gt=0, lt=100)]] = Field(
        min_length=1, description="percent of the bytes of full promotion at which orders are measured"
    )


class PruneTarget(_Strict):
    """One right-sized file; give vram_gib or budget_mb."""

    name: Name = Field(description="part of the file name and of the target prune_NAME")
    vram_gib: float | None = Field(default=None, gt=0, lt=10000, description="memory of the card in GiB")
    reserve_gib: float = Field(default=0.5, ge=0, description="GiB of it for driver, kernels and scratch")
    ctx: int = Field(default=8192, ge=1, description="tokens of context that the card has room for")
    cache_type_k: CacheType = Field(default="f16", description="type of the K cache")
    cache_type_v: CacheType = Field(default="f16", description="type of the V cache")
    budget_mb: int | None = Field(default=None, ge=1, description="MiB of weights")

    @model_validator(mode="after")
    def _one_budget(self) -> "PruneTarget":
        if (self.vram_gib is None) == (self.budget_mb is None):
            raise ValueError("give vram_gib or budget_mb, one of the two")
        if self.vram_gib is not None and self.vram_gib <= self.reserve_gib:
            raise ValueError(f"reserve_gib {self.reserve_gib:g} leaves nothing of vram_gib {self.vram_gib:g}")
        return self


def _is_pattern(text: str) -> str:
    try:
        re.compile(text.encode())
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


class Quality(_Chunks):
    """KLD against the reference model."""

    chunks: int = Field(ge=1)
    n_ctx: int = Field(ge=128, description="tokens per chunk")
    reference: Literal["BF16", "Q6_K"] = Field(description="what the logits are compared with")
    documents: Annotated[str, AfterValidator(_is_pattern)] | None = Field(
        description="regular expression of the lines that begin a document; null = the text does not tell"
    )


class Speed(_Strict):
    """llama-bench, interleaved over the files."""

    n_prompt: int = Field(ge=1)
    n_gen: int = Field(ge=1)
    depths: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="tokens that are in the context before each test"
    )
    repetitions: int = Field(ge=2, description="rounds over all files; mean and stddev are over rounds")


class Arc(_Strict):
    """What `snakemake bench_arc` adds; length and number of its runs are those of `quality` and `speed`."""

    twin: str | None = Field(
        pattern=r"^local:.", description="a twin from elsewhere, local:PATH; null = the one made here"
    )
    chunks: int = Field(ge=1, description="chunks on which the card is compared with the CPU")


class Bench(_Strict):
    """What is measured."""

    quality: Quality
    speed: Speed
    compare: list[Name] = Field(description="names of study.recipes that are measured beside the twin")
    compare_to: Name | None = Field(
        description="one of `compare`: tables tell every row's difference to it, with its error; null, or where "
        "`compare` is empty: no differences"
    )
    arc: Arc


class Signing(_Strict):
    """Who signs the manifest of a release: with minisign or with GPG."""

    minisign: str | None = Field(default=None, description="path of the secret key")
    public_key: str | None = Field(default=None, pattern=r"^RW[A-Za-z0-9+/]{54}$", description="that belongs to it")
    gpg: str | None = Field(default=None, pattern=r"^[0-9A-F]{40}$", description="fingerprint of a key in the keyring")

    @model_validator(mode="after")
    def _one_way(self) -> "Signing":
        if (self.gpg is None) != (self.minisign is not None) or (self.minisign is None) != (self.public_key is None):
            raise ValueError("give minisign and public_key, or gpg")
        return self

    @property
    def identity(self) -> str:
        """What `verify --key` takes."""
        return str(self.public_key or self.gpg)


class Disk(_Strict):
    """What stays of what can be made again."""

    lean: bool = Field(
        description="delete the checkpoint, the BF16 model, the variants and other types after their last use"
    )


def _is_repository(name: str) -> str:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(str(error)) from error
    return name


Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"), AfterValidator(_is_repository)]


class Release(_Strict):
    """The release folder beyond its content."""

    sign: Signing | None = Field(description="who signs manifest.json; null = nobody")
    repo: Repository | None = Field(
        description="OWNER/NAME on the Hugging Face hub, for `snakemake release_upload`; null = not uploaded",
    )
    private: bool = Field(description="make a repository that does not exist yet a private one")


def _is_codebook(table: list[int]) -> list[int]:
    if table != sorted(set(table)) or max(map(abs, table)) != 127:
        raise ValueError("must ascend, and its largest magnitude must be 127")
    return table


Codebook = Annotated[list[int], Field(min_length=8, max_length=8), AfterValidator(_is_codebook)]


class Study(_Strict):
    """What `bench.compare`, `snakemake study_recipes` and `study_codebooks` choose from, beside the twin."""

    recipes: dict[Name, Recipe]
    codebooks: dict[Name, Codebook] = Field(
        description="tables for IQ3_A770 beside version 1 and the one that is fitted to the model"
    )
    codebook_runs: int = Field(ge=2, description="runs per table, all but the first with weights jittered by 5 %")

    @model_validator(mode="after")
    def _names_are_free(self) -> "Study":
        if taken := {"version-1", "lloyd"} & self.codebooks.keys():
            raise ValueError(f"codebooks: the name {min(taken)!r} is taken")
        return self


class Config(_Strict):
    """The whole configuration of a run."""

    model: Model
    engine: Engine
    imatrix: Imatrix
    variants: Annotated[list[Recipe], BeforeValidator(_by_name)] = Field(
        min_length=2,
        max_length=2,
        description="variant 0 (small) and variant 1 (promoted), or siblings or nested",
        json_schema_extra=_or_name,
    )
    rank: Rank
    prune_targets: list[PruneTarget]
    bench: Bench
    disk: Disk
    release: Release
    study: Study

    @property
    def is_nested(self) -> bool:
        """Whether variant 1 is variant 0 and what refines it."""
        return self.variants[1].uses("IQ4_A770")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        low, high = self.variants
        for key in ("rest", "rest_classes"):
            ours, theirs = getattr(low, key), getattr(high, key)
            if ours != theirs:
                raise ValueError(
                    f"variants: {key} is {ours} in variant 0 and {theirs} in variant 1, "
                    "but is stored once: make them equal"
                )
        if low.experts == high.experts:
            raise ValueError("variants: both have the same expert types, so there is nothing to promote")
        bits = [recipe.expert_bits(self.model.moe_layers) for recipe in self.variants]
        if bits[1] <= bits[0]:
            raise ValueError(
                f"variants: experts have {bits[0]:.2f} bits in variant 0 and {bits[1]:.2f} in variant 1, "
                "so nothing would be promoted: the small variant comes first"
            )
        if low.uses("IQ4_A770"):
            raise ValueError("variants: IQ4_A770 is variant 1 of a nested twin, variant 0 is the IQ3_A770 in it")
        for name, types in high.experts.items() if self.is_nested else ():
            refines = "IQ4_A770" in (types["type"], types["raised"])
            if low.experts[name] != ({**PLAIN, "type": "IQ3_A770"} if refines else types):
                found = " and ".join(recipe.describe()[name] for recipe in self.variants)
                raise ValueError(
                    f"variants: {name} is {found}, but IQ4_A770 refines IQ3_A770 in all layers, "
                    "and a nested twin has nothing else twice"
                )
        names = [target.name for target in self.prune_targets]
        rows = {f"variant-{number}" for number in range(len(self.variants))}
        # rows of the tables, and the twin's file
        if reserved := {"twin", *rows} & {*names} | rows & {*self.bench.compare}:
            raise ValueError(f"the name {min(reserved)!r} is taken: give the prune target or recipe another one")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"prune_targets: the name {name!r} is given twice")
        return self

    @model_validator(mode="after")
    def _raised_layers_are_there(self) -> "Config":
        # of other recipes of the study once they are made
        recipes = {f"variants.{number}": recipe for number, recipe in enumerate(self.variants)}
        recipes |= {f"study.recipes.{name}": self.study.recipes.get(name) for name in self.bench.compare}
        there = self.model.expert_layers
        for key, recipe in recipes.items():
            for part, types in recipe.experts.items() if recipe else ():
                if lacking := set(types["layers"] or ()) - set(there):
                    raise ValueError(
                        f"{key}.{part} raises layer {min(lacking)}, but experts are in layers {there[0]} to {there[-1]}"
                    )
                if (types["top"] or 0) > len(there):
                    raise ValueError(f"{key}.{part} raises {types['top']} layers, but {len(there)} have experts")
        return self

    @model_validator(mode="after")
    def _compared_are_known(self) -> "Config":
        compare = self.bench.compare
        taken = {target.name for target in self.prune_targets}
        for name in compare:
            if name not in self.study.recipes:
                known = ", ".join(self.study.recipes)
                raise ValueError(f"bench.compare: {name!r} is not among study.recipes; known: {known}")
            if name in taken or compare.count(name) > 1:
                raise ValueError(f"bench.compare: the name {name!r} is given twice, here or in prune_targets")
        if (base := self.bench.compare_to) is not None and base not in (compare or self.study.recipes):
            raise ValueError(f"bench.compare_to: {base!r} is not among bench.compare; add it there, or give null")
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
    """SHA-256 of the settings that decide the twin's bytes; what is only measured or pruned is not among them."""
    settings = config.model_dump(include={"model", "imatrix", "variants", "rank"}, exclude={"rank": {"curve"}})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def schema_json() -> str:
    """Return the JSON schema for editors; nothing is required, for a file may state only what differs."""
    schema = Config.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    return json.dumps(schema, indent=2) + "\n"
