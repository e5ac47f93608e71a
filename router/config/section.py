"""What the sections of config.yaml share: how strictly they are read, and the types of their values."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from router.config.bounds import MAX_COUNT
from router.policy.deadline import ClientBudget

# 30 years: as good as forever, and within the limits of clocks, timers and Redis' milliseconds.
MAX_SECONDS = 1e9
# 1 TB.
MAX_MB = 2.0**20


class Section(BaseModel):
    """A section of config.yaml."""

    # Strict, because YAML has types: `timeout: "5"` is a mistake to report, not to guess at.
    # Docstrings below keys become their descriptions, in docs/configuration.md and in OpenAPI.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
PositiveSeconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


def matching(pattern: str, wanted: str) -> AfterValidator:
    """Return a check that a text matches `pattern` wholly; otherwise the message is that `wanted` was expected."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("text", "expected {wanted}", {"wanted": wanted})
        return text

    return AfterValidator(check)


# No control characters, because system calls reject a NUL; and no half of a surrogate pair, which has no bytes.
FilePath = Annotated[str, matching(r"[^\x00-\x1f\x7f\ud800-\udfff]+", "the name of a file")]
# Tuples are read strictly, too, and YAML has lists.
FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


def _budget(value: object) -> object:
    try:
        if not isinstance(value, str | float | int) or isinstance(value, bool):
            raise TypeError(value)
        ClientBudget.of(value)
    except (TypeError, ValueError) as error:
        raise PydanticCustomError("client_budget", "expected none, job, job+N or N, in seconds from 1 on") from error
    return value


Budget = Annotated[str | float, BeforeValidator(_budget)]
