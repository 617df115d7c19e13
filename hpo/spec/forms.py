"""How the file writes a searched parameter."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hpo.spec.explain import shown, wrong
from hpo.spec.sections import is_number

Number = int | float


def _number(value: Any) -> Any:
    if is_number(value):
        return value
    hint = None
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value):
        hint = "remove the quotes"
    raise wrong(f"expected a finite number; got {shown(value)}", hint)


Finite = Annotated[Number, BeforeValidator(_number, json_schema_input_type=float)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RangeForm(_Form):
    """A range of numbers."""

    low: Finite = Field(description="The smallest value.")
    high: Finite = Field(description="The largest value.")
    log: bool = Field(False, description="Search on a logarithmic scale; low must be > 0.")
    step: Finite | None = Field(None, description="Only low, low + step, …, high.")
    type: Literal["int", "float"] | None = Field(
        None,
        description="Absent: as the option's type is; for your own trainer, int if low and high "
        "are whole numbers.",
    )
    when: dict[str, Any] | None = Field(
        None, description="Only where other searched paths have these values."
    )


class ChoicesForm(_Form):
    """Some values. In short, a list of them."""

    choices: list[Any] = Field(description="The values: text, numbers, true, false, null.")
    when: dict[str, Any] | None = Field(
        None, description="Only where other searched paths have these values."
    )
