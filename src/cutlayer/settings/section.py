"""What every section of a job has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Beyond what any machine holds, and below what a size in memory can be reckoned with.
Count = Annotated[int, Field(ge=1, le=2**31)]


class Section(BaseModel):
    """A frozen part of a job; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
