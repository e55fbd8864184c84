"""Paid requests to an OpenAI-compatible server: their choices, and many of them concurrently.

Not covered: HTTP, keys and retries (api_client); prices and ceilings (api_spending); what is asked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from evals.models.api_client import SHOWN, ApiClient, ApiError, RequestFailedError, hidden
from evals.models.api_numbers import is_count
from evals.models.api_spending import CostCeilingError, Spending
from jaxmoe.json_values import JsonObject

# a shorter word, such as the "EMPTY" that servers without keys take, is no secret and may be in an answer
SECRET_LENGTH = 16
# more tokens than any request has: such a count is invalid
MOST_TOKENS = 1_000_000_000
Done = TypeVar("Done")


class ServerReply(NamedTuple):
    """What the server sent: the text, why it ended (stop, length, content_filter), and the whole choice."""

    text: str
    finish: str
    choice: JsonObject


class ApiRequests:
    """Asks one model of a server; may be called from several threads.

    Args:
      client: posts to the server.
      spending: accounts for what they cost.
      model: its name on the server.

    Attributes:
      refused: prompts of this session whose answers were left empty.
    """

    def __init__(self, client: ApiClient, spending: Spending, model: str):
        self.client, self.spending, self.model = client, spending, model
        self.refused = 0

    def request(
        self, path: str, body: JsonObject, prompt_bytes: int, completion_tokens: int
    ) -> list[ServerReply]:
        """The choices of one request to a route, within the cost ceiling.

        Args:
          path: of the route, under the base address.
          body: the request, without the model.
          prompt_bytes, completion_tokens: the most that may be charged.
        Returns: the choices, as the server orders them.
        Raises: RequestFailedError for this request alone, ApiError for the server, CostCeilingError.
        """
        # a token has at least one byte, so this is never an underestimate
        most = (prompt_bytes + 16, completion_tokens)
        with self.spending.promised(*most):
            reply = self.client.post(path, {"model": self.model, **body})
            charged = _tokens_used(reply)
            if charged is None:
                self.client.say(
                    f"{self.client.url} does not say how many tokens it used; the most possible is counted"
                )
            self.spending.count(*(charged or most))
        return self._choices(reply)

    def _choices(self, reply: JsonObject) -> list[ServerReply]:
        try:
            choices = [dict(choice) for choice in reply["choices"]]
            texts = [c["message"]["content"] if "message" in c else c["text"] for c in choices]
        except (KeyError, TypeError, ValueError):
            choices, texts = [], []
        if not choices:
            said = hidden(str(reply), self.client.key())[:SHOWN]
            raise RequestFailedError(f"{self.client.url} does not answer as completions do: {said}")
        key = self.client.key()
        secret = key if len(key) >= SECRET_LENGTH else ""
        return [
            ServerReply(hidden(_joined(text), secret), str(choice.get("finish_reason") or ""), choice)
            for text, choice in zip(texts, choices, strict=True)
        ]


def side_by_side(
    tasks: Iterable[Callable[[], Done]], concurrency: int
) -> Iterator[tuple[int, Done | Exception]]:
    """Results of tasks as they arrive. No task is started unless somebody waits for it.

    Args:
      tasks: each sends a request to the server.
      concurrency: tasks that run at a time.
    Returns: number of the task and its result, or RequestFailedError, also for whatever else a task raises.
    Raises: ApiError and CostCeilingError, after the answers still on their way have arrived.
    """
    pool = ThreadPoolExecutor(concurrency)
    running: dict[Future[Done], int] = {}
    rest = iter(enumerate(tasks))
    fault: ApiError | CostCeilingError | None = None
    try:
        while True:
            while fault is None and len(running) < concurrency and (task := next(rest, None)) is not None:
                number, ask = task
                running[pool.submit(ask)] = number
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(done)
                match done.exception():
                    case None:
                        yield number, done.result()
                    case RequestFailedError() as error:
                        yield number, error
                    case ApiError() | CostCeilingError() as error:
                        fault = error  # raised once the answers on their way have arrived
                    case Exception() as error:
                        yield number, _unforeseen(error)
                    case error:  # KeyboardInterrupt and the like
                        raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if fault is not None:
        raise fault


def _unforeseen(error: Exception) -> RequestFailedError:
    # the message may hold whatever a server sent, even a key
    failure = RequestFailedError(f"a reply could not be handled: {type(error).__name__}")
    failure.__cause__ = error
    return failure


def by_index(replies: Sequence[ServerReply]) -> list[ServerReply]:
    """The choices for several prompts in the order of the prompts.

    Args:
      replies: as the server orders them; those without an index stay where they are.
    Returns: the choices by index.
    Raises: RequestFailedError for an index that is not a number, or that only some of several choices share.
    """
    places = [reply.choice.get("index", 0) for reply in replies]
    if odd := [place for place in places if not is_count(place)]:
        raise RequestFailedError(
            f"the index of a choice must be a number from 0 on; got {type(odd[0]).__name__}"
        )
    # servers that do not number the choices give all of them the same index
    if len(set(places)) not in (1, len(places)):
        raise RequestFailedError(
            f"the index of each choice must be its own; {len(places)} choices have {len(set(places))}"
        )
    return sorted(replies, key=lambda reply: reply.choice.get("index", 0))


def byte_count(text: str) -> int:
    """Length of a text in UTF-8, including lone halves of characters."""
    return len(text.encode("utf-8", "surrogatepass"))


def _tokens_used(reply: JsonObject) -> tuple[int, int] | None:
    """Tokens of prompt and completion as the server counts them; None if it does not say."""
    used = reply.get("usage")
    told = used if isinstance(used, dict) else {}
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    if is_count(prompt, MOST_TOKENS) and is_count(completion, MOST_TOKENS):
        return prompt, completion
    return None


def _joined(content: object) -> str:
    """The text of a message: a string, or a list of parts as some servers send it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""
