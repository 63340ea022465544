"""What all parts of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Refuses unknown keys, and stays as it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
