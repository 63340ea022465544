"""The configuration: typed, validated before the DAG is built, unknown keys refused."""

import hashlib
import itertools
import json
import re
from typing import Annotated, Any, Literal

from huggingface_hub.utils import HFValidationError, validate_repo_id
from pydantic import AfterValidator, Field, ValidationError, model_validator

from prune_dual import NESTED, SIBLINGS

from .backends import BACKENDS
from .engine import N_BATCH
from .errors import UserError
from .licenses import spdx_spelling
from .recipes import Recipe, Variants, kind_of, refuse_pair
from .strict import Strict, explain

MAX_NAME = 100  # characters: file systems take 255 bytes for a name, and others are added
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_NAME)]
PHASES = ("variant-0", "variant-1")  # how tables and files of measurements name them
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


def _is_spdx(name: str) -> str:
    if (known := spdx_spelling(name)) != name:
        raise ValueError(f"SPDX writes it {known}")
    return name


class Model(Strict):
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


class Engine(Strict):
    """Where llama.cpp comes from and what it is built for."""

    source: Literal["auto", "git", "sdist"] = Field(
        description="auto: git first, the sdist where git cannot be reached"
    )
    backend: Literal[*BACKENDS] = Field(
        description="what measures; models are always converted and quantized by the build for the CPU"
    )
    sycl_f16: bool = Field(default=False, description="let SYCL kernels calculate in half precision: GGML_SYCL_F16")


class _Chunks(Strict):
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


RankMethod = Literal["measured", "weighted_error", "imatrix_energy", "first_layers", "random"]


class Rank(Strict):
    """How the groups are put in order of promotion."""

    method: RankMethod = Field(description="what tells the benefit of promoting a group; `study_ranking` compares them")
    tie_gate_up: bool = Field(description="promote gate and up of a layer together or not at all")
    chunks: int = Field(ge=1, description="chunks of the calibration text on which each group is measured")
    curve: list[Annotated[int, Field(gt=0, lt=100)]] = Field(
        min_length=1, description="percent of the bytes of full promotion at which orders are measured"
    )


class PruneTarget(Strict):
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


class Speed(Strict):
    """llama-bench, interleaved over the files."""

    n_prompt: int = Field(ge=1)
    n_gen: int = Field(ge=1)
    depths: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="tokens that are in the context before each test"
    )
    repetitions: int = Field(ge=2, description="rounds over all files; mean and stddev are over rounds")


class Arc(Strict):
    """What `snakemake bench_arc` adds; length and number of its runs are those of `quality` and `speed`."""

    twin: str | None = Field(
        pattern=r"^local:.", description="a twin from elsewhere, local:PATH; null = the one made here"
    )
    chunks: int = Field(ge=1, description="chunks on which the card is compared with the CPU")


class Bench(Strict):
    """What is measured."""

    quality: Quality
    speed: Speed
    compare: list[Name] = Field(description="names of study.recipes that are measured beside the twin")
    compare_to: Name | None = Field(
        description="one of `compare`: tables tell every row's difference to it, with its error; null, or where "
        "`compare` is empty: no differences"
    )
    arc: Arc


class Signing(Strict):
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


class Disk(Strict):
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


class Release(Strict):
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


class Study(Strict):
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


class Config(Strict):
    """The whole configuration of a run."""

    model: Model
    engine: Engine
    imatrix: Imatrix
    variants: Variants
    nested_margin: float = Field(
        ge=-1,
        le=10,
        description="where variant 1 is open: the twin is nested unless the KLD of its large phase is higher than the "
        "sibling's by more than this share of it",
    )
    rank: Rank
    prune_targets: list[PruneTarget]
    bench: Bench
    disk: Disk
    release: Release
    study: Study

    @property
    def kinds(self) -> dict[str, list[Recipe]]:
        """Kind of the twin -> its variants; both kinds where the measurement decides."""
        return {kind_of(high): [self.variants[0], high] for high in self.variants[1:]}

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for pair in self.kinds.values():
            refuse_pair(pair, self.model.moe_layers)
        if len(self.variants) > 2 and [*self.kinds] != [SIBLINGS, NESTED]:
            raise ValueError("variants: of three recipes the second is a sibling, the third refines with IQ4_A770")
        names = [target.name for target in self.prune_targets]
        # rows of the tables, and the twin's file
        if reserved := {"twin", *PHASES} & {*names} | {*PHASES} & {*self.bench.compare}:
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
        faults = "\n".join(f"  {explain(fault, 'config/config.schema.json')}" for fault in error.errors())
        raise UserError(f"configuration refused:\n{faults}") from error


def twin_hash(config: Config, kind: str) -> str:
    """SHA-256 of the settings that decide the bytes of a twin of this kind.

    What is only measured or pruned is not among them, nor what has decided the kind.
    """
    settings = config.model_dump(include={"model", "imatrix", "rank"}, exclude={"rank": {"curve"}})
    settings["variants"] = [recipe.model_dump() for recipe in config.kinds[kind]]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def schema_json() -> str:
    """Return the JSON schema for editors; nothing is required, for a file may state only what differs."""
    schema = Config.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    return json.dumps(schema, indent=2) + "\n"
