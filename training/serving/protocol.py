"""What clients ask for, in OpenAI's format: checked, with unsupported fields refused by name."""

import reprlib
from typing import Annotated, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jaxmoe.json_values import JsonMapping, JsonObject, is_object

MOST_SAMPLES = 128
MOST_STOPS = 4
MOST_STOP_CHARACTERS = 1000
MOST_MESSAGES = 4096
MOST_KEYS = 16
# each is looked for while a text is generated
Stop = Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]


class RequestError(Exception):
    """A request that cannot be served.

    Attributes:
      status: of HTTP.
      kind: OpenAI's error type.
      parameter: the field at fault, if it is one.
      code: OpenAI's word for the fault, if it has one.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str = "invalid_request_error",
        parameter: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status, self.kind, self.parameter, self.code = status, kind, parameter, code

    def body(self) -> JsonObject:
        """The JSON that OpenAI's clients read."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.parameter, "code": self.code}
        }


class StreamOptions(BaseModel):
    """What a stream reports besides its pieces."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class _Asked(BaseModel):
    """What both kinds of request share."""

    # an unknown field would ask for something that nobody provides
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    # a list of a million wrong items is one error (FailFast), not a million
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS), FailFast()] = []
    seed: int | None = None
    user: str | None = None
    # accepted if they ask for nothing
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("temperature", "top_p", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        try:
            return float(value)
        except OverflowError:
            raise RequestError("temperature and top_p must be numbers of 64 bits") from None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stream_options", "logit_bias", "response_format", mode="before", check_fields=False)
    @classmethod
    def _few(cls, value: object) -> object:
        # each unknown key is an error of its own
        if is_object(value) and len(value) > MOST_KEYS:
            raise RequestError(f"an object of options has at most {MOST_KEYS} keys; got {len(value)}")
        return value

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias", "suffix", check_fields=False)
    @classmethod
    def _nothing(cls, value: object, info: ValidationInfo) -> object:
        if value:
            name = info.field_name
            raise RequestError(f"{name} is not supported; leave it out, or ask for none", parameter=name)
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "_Asked":
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options goes with stream=true alone", parameter="stream_options")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the text and are not part of it."""
        return tuple(text for text in self.stop if text)

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextRequest(_Asked):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    suffix: str | None = None  # likewise

    @field_validator("prompt", mode="plain")
    @classmethod
    def _of_one_kind(cls, value: object) -> object:
        """Checked by hand: pydantic tries every kind, and reports every wrong item of each."""
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise _no_prompt(value)
        items = cast("list[object]", value)
        lists = bool(items) and isinstance(items[0], list)
        kind: type = str if items and isinstance(items[0], str) else int
        for item in items:
            # a bool is an int to isinstance
            if lists and isinstance(item, list):
                wrong = [one for one in cast("list[object]", item) if type(one) is not int][:1]
            else:
                wrong = [] if not lists and type(item) is kind else [item]
            if wrong:
                raise _no_prompt(wrong[0])
        return items

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, as texts or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [item for item in self.prompt if isinstance(item, int)]
        return [ids] if ids else [item for item in self.prompt if not isinstance(item, int)]


def _no_prompt(value: object) -> RequestError:
    return RequestError(
        f"prompt must be a text, token ids, or a list of either; got {reprlib.repr(value)}",
        parameter="prompt",
    )


class ResponseFormat(BaseModel):
    """Only plain text is promised."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"] = "text"


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[JsonObject], Field(min_length=1, max_length=MOST_MESSAGES), FailFast()]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[JsonObject], FailFast()] = []
    # not in OpenAI's API: report with each token which experts were at work
    expert_weights: bool = False

    @field_validator("messages")
    @classmethod
    def _texts(cls, messages: list[JsonObject]) -> list[JsonObject]:
        return [_message(at, message) for at, message in enumerate(messages)]

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs goes with logprobs=true alone", parameter="top_logprobs")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise RequestError(
                "max_tokens and max_completion_tokens are one limit, to be given once; got "
                f"{self.max_tokens} and {self.max_completion_tokens}",
                parameter="max_tokens",
            )
        return self

    @property
    def most_tokens(self) -> int | None:
        """Under either name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _message(at: int, message: JsonMapping) -> JsonObject:
    """A message whose content is one text; templates read text alone.

    Raises: RequestError for a message without role or content, and for parts that are not text.
    """
    content = message.get("content")
    if not isinstance(message.get("role"), str) or not isinstance(content, str | list):
        raise RequestError(
            f"message {at} must have a role, and a content of text or parts of text", parameter="messages"
        )
    if isinstance(content, str):
        return dict(message)
    parts: list[str] = []
    for part in cast("list[object]", content):
        text = part.get("text") if is_object(part) and part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = part.get("type") if is_object(part) else part
            raise RequestError(
                f"message {at} must have parts of type text alone; got {reprlib.repr(kind)}",
                parameter="messages",
            )
        parts.append(text)
    return {**message, "content": "".join(parts)}


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
    unknown = next((name for name in given if name not in kind.model_fields), None)
    if unknown is not None:
        raise _unknown(unknown)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            raise _unknown(".".join(map(str, first["loc"]))) from None
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise RequestError(f"{field}: {rule}; got {reprlib.repr(first['input'])}", parameter=field) from None


def _unknown(name: str) -> RequestError:
    # half a character cannot be sent back
    name = name.encode("ascii", "backslashreplace").decode()[:100]
    return RequestError(f"{name} is not supported", parameter=name)
