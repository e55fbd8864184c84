"""What clients ask for, in OpenAI's words: checked, and what is not supported refused by name."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jaxmoe.json_values import JsonObject, is_object

MOST_SAMPLES = 128


class RequestError(Exception):
    """A request that cannot be served.

    Attributes:
      status: of HTTP.
      kind: OpenAI's error type.
      parameter: the field at fault, if it is one.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str = "invalid_request_error",
        parameter: str | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.parameter = status, kind, parameter

    def body(self) -> JsonObject:
        """The JSON that OpenAI's clients read."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.parameter, "code": self.status}
        }


class _Asked(BaseModel):
    """What both kinds of request share."""

    # an unknown field would be a wish that nobody fulfills
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    user: str | None = None
    # accepted where they ask for nothing
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator("temperature", "top_p", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the text and are not part of it."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool((self.stream_options or {}).get("include_usage"))


class TextRequest(_Asked):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, as texts or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [item for item in self.prompt if isinstance(item, int)]
        return [ids] if ids else [item for item in self.prompt if not isinstance(item, int)]


class ResponseFormat(BaseModel):
    """Only plain text is promised."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"] = "text"


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[JsonObject], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[JsonObject] | None = None
    # not OpenAI's: tell with each token which experts were at work
    expert_weights: bool = False

    @property
    def most_tokens(self) -> int | None:
        """The newer name wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


Asked = TypeVar("Asked", bound=_Asked)


def parsed(kind: type[Asked], body: object) -> Asked:
    """A request from JSON.

    Args:
      kind: TextRequest or ChatRequest.
      body: parsed JSON, of whatever type; fields that are null count as left out.
    Returns: the checked request.
    Raises: RequestError naming the field, the rule and what was given.
    """
    if not is_object(body):
        raise RequestError(f"the body must be a JSON object; got {type(body).__name__}")
    # null is what a client sends for a field that nobody set
    given = {name: value for name, value in body.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            raise RequestError(f"{field} is not supported", parameter=field) from None
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise RequestError(f"{field}: {rule}; got {first['input']!r:.100}", parameter=field) from None
