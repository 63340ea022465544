"""What a model's tensors are quantized to: recipes, and the pairs of them that make a twin."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from prune_dual import NESTED, SIBLINGS
from prune_dual.container.tensor_types import BLOCK_SIZES, NAMES

from .strict import Strict

# names as llama-quantize takes them
QuantType = Literal[
    "IQ3_A770", "IQ4_A770", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16",
]  # fmt: skip
RestType = Literal["Q6_K", "Q8_0"]
OUR_TYPES = ("IQ3_A770", "IQ4_A770")
# types that llama-quantize encodes with error feedback where it is given covariances
FEEDBACK_TYPES = (*OUR_TYPES, "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
TYPE_IDS = {name: kind for kind, name in NAMES.items()}
RestClass = Literal["token_embd", "output", "attention", "delta_net", "shared_experts"]


def _or_plain_type(schema: dict[str, Any]) -> None:
    """Let editors accept `down: Q4_K` for `down: {type: Q4_K}`."""
    mixed = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"enum": list(get_args(QuantType)), "type": "string"}, mixed]


class ExpertTypes(Strict):
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


class Recipe(Strict):
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
        default=True,
        description=f"error feedback for experts of {', '.join(FEEDBACK_TYPES)}: better, and slower to encode",
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

    @property
    def title(self) -> str:
        """What its experts are called in a table: Q4_K, error feedback."""
        kinds = dict.fromkeys(types[key] for types in self.experts.values() for key in ("type", "raised") if types[key])
        return "/".join(kinds) + (", error feedback" if self.needs_covariance else "")

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
        return self.feedback and any(map(self.uses, FEEDBACK_TYPES))


def _uniform(quant_type: str) -> dict[str, str]:
    return {**dict.fromkeys(("gate", "up", "down"), quant_type), "rest": "Q6_K"}


# what a twin is by one word; with `auto` a measurement decides
TWINS = {
    SIBLINGS: [_uniform("IQ3_A770"), _uniform("Q4_K")],
    NESTED: [_uniform("IQ3_A770"), _uniform("IQ4_A770")],
    "auto": [_uniform("IQ3_A770"), _uniform("Q4_K"), _uniform("IQ4_A770")],
}


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in TWINS:
        raise ValueError(f"is neither a list of recipes nor one of {', '.join(TWINS)}")
    return TWINS[value]


def _or_name(schema: dict[str, Any]) -> None:
    """Let editors accept `variants: nested`."""
    recipes = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"enum": list(TWINS), "type": "string"}, recipes]
    schema["description"] = recipes.pop("description")


Variants = Annotated[
    list[Recipe],
    BeforeValidator(_by_name),
    Field(
        min_length=2,
        max_length=3,
        description="variant 0 (small) and variant 1 (promoted); two for variant 1, siblings first, where the "
        "measurement decides; or siblings, nested, or auto",
        json_schema_extra=_or_name,
    ),
]


def kind_of(high: Recipe) -> str:
    """Kind of the twin with this variant 1: nested where that is variant 0 and what refines it."""
    return NESTED if high.uses("IQ4_A770") else SIBLINGS


def siblings_of(variants: list[Recipe]) -> list[Recipe]:
    """What the refined variant 1 of a nested twin could be instead: a sibling, and that without error feedback.

    Where the configuration names none, it is Q4_K in the place of IQ4_A770.
    """
    sibling = variants[1]
    if kind_of(sibling) == NESTED:
        stock = {
            name: ExpertTypes(type="Q4_K")
            for name, types in sibling.experts.items()
            if "IQ4_A770" in (types["type"], types["raised"])
        }
        sibling = sibling.model_copy(update=stock)
    return [sibling, sibling.model_copy(update={"feedback": False})][: 1 + sibling.needs_covariance]


def refuse_pair(variants: list[Recipe], layers: int) -> None:
    """Raise a ValueError where two recipes make no twin of a model with so many layers of experts."""
    low, high = variants
    for key in ("rest", "rest_classes"):
        ours, theirs = getattr(low, key), getattr(high, key)
        if ours != theirs:
            raise ValueError(
                f"variants: {key} is {ours} in variant 0 and {theirs} in variant 1, but is stored once: make them equal"
            )
    if low.experts == high.experts:
        raise ValueError("variants: both have the same expert types, so there is nothing to promote")
    bits = [recipe.expert_bits(layers) for recipe in variants]
    if bits[1] <= bits[0]:
        raise ValueError(
            f"variants: experts have {bits[0]:.2f} bits in variant 0 and {bits[1]:.2f} in variant 1, "
            "so nothing would be promoted: the small variant comes first"
        )
    if low.uses("IQ4_A770"):
        raise ValueError("variants: IQ4_A770 is variant 1 of a nested twin, variant 0 is the IQ3_A770 in it")
    for name, types in high.experts.items() if kind_of(high) == NESTED else ():
        refines = "IQ4_A770" in (types["type"], types["raised"])
        if low.experts[name] != ({**PLAIN, "type": "IQ3_A770"} if refines else types):
            found = " and ".join(recipe.describe()[name] for recipe in variants)
            raise ValueError(
                f"variants: {name} is {found}, but IQ4_A770 refines IQ3_A770 in all layers, "
                "and a nested twin has nothing else twice"
            )
