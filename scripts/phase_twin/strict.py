"""What data that people write has in common: unknown keys are refused, a mistake is one line."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Refuses unknown keys, and stays as it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(fault: Any, schema: str) -> str:
    """One of a ValidationError's errors for people: key, value, what is wrong; `schema` is the file to look at."""
    key = ".".join(str(part) for part in fault["loc"])
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or check its spelling"
    if fault["type"] == "missing":
        return f"{key}: missing; add it ({schema} describes it)"
    if not key:
        return what
    if isinstance(fault["input"], dict):
        return f"{key}: {what}"
    return f"{key} = {fault['input']!r}: {what}"
