"""A server as a setting: where a model is, how it is asked, what it may cost; and respondents and TextModels
from it.

Not covered: asking (api_respondent, api_scoring, evals.models.api_model).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from evals.models.api_client import ApiClient, Retries
from evals.models.api_model import ApiModel
from evals.models.api_requests import ApiRequests
from evals.models.api_spending import Spending
from evals.questionnaires.respondent import Respondent
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.api_scoring import ApiScoringRespondent, Route
from jaxmoe.progress import say
from jaxmoe.text.forms import Form

Answers = Literal["label", "words", "written"]
TokensName = Literal["max_tokens", "max_completion_tokens"]


def check_numbers(section: str = "", /, *, temperature: float = 0.0, **counts: int) -> None:
    """Refuses settings with which nothing can be asked.

    Args:
      section: what precedes the names of the settings, such as "behavior.".
      temperature: of what is written; 0 takes the likeliest.
      counts: by the name of their setting, none below 1.
    Raises: ValueError that names the setting and its value.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{section}temperature must be a finite number, 0 or more; got {temperature:g}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{section}{name} must be at least 1; got {count}")


@dataclass(frozen=True)
class ServerConfig:
    """A model behind an OpenAI-compatible server.

    Attributes:
      url: base address, such as http://localhost:8000/v1.
      model: its name there.
      route: chat, or completions for base models. It decides where questionnaires' options are scored, and
        what the form auto means for a server; other forms of questions and programs have their own routes.
      key_variable: the environment variable that holds the key.
      max_new_tokens: least room for a written answer, thoughts included; reasoning models need some
        thousands.
      tokens_name: max_tokens, or max_completion_tokens where the server wants that.
      concurrency: concurrent requests.
      cost_ceiling: the most that may be spent in an output folder, over all sessions and by all models of a
        run together; null for none.
      prompt_price, completion_price: of a million tokens.
      timeout_s: for one try of a request, in seconds.
      text_start: what texts without a prompt begin with there, such as "<|endoftext|>"; needed for calibrated
        multiple choice if the server's tokenizer does not begin texts with a token of its own.
    """

    url: str
    model: str
    route: Route = "chat"
    key_variable: str = "OPENAI_API_KEY"
    max_new_tokens: int = 16
    tokens_name: str = "max_tokens"
    concurrency: int = 8
    cost_ceiling: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    timeout_s: float = 300.0
    text_start: str = ""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(f"server.model must be the name of a model on {self.url}; got none")
        check_numbers(concurrency=self.concurrency, max_new_tokens=self.max_new_tokens)
        if self.tokens_name not in (known := get_args(TokensName)):
            raise ValueError(f"tokens_name must be {' or '.join(known)}; got {self.tokens_name!r}")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s must be a finite number above 0; got {self.timeout_s:g}")

    def client(self, name: str = "", temperature: float = 1.0, least_tokens: int = 1) -> ApiRespondent:
        """A respondent that writes.

        Args:
          name: in tables; the model's own if empty.
          temperature: of what it writes.
          least_tokens: what it writes needs this many; the setting applies if it is larger.
        Returns: the respondent; nothing is asked yet.
        """
        return ApiRespondent(
            self.url,
            self.model,
            temperature,
            max(self.max_new_tokens, least_tokens),
            self.key_variable,
            self.concurrency,
            cost_ceiling=self.cost_ceiling,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            tokens_name=self.tokens_name,
            timeout_s=self.timeout_s,
            shown_as=name,
        )

    def judging(self, ceiling: float | None) -> ApiRespondent:
        """A judge that reads what another model wrote, paid from the same account.

        Args:
          ceiling: on what both may cost together; None for no limit except its own.
        Returns: a respondent that writes what is likeliest.
        Raises: ValueError for a judge without prices under a ceiling.
        """
        if ceiling is None:
            return self.client("", 0.0)
        if not (self.prompt_price > 0 or self.completion_price > 0):
            raise ValueError(
                f"judge {self.model} needs a prompt_price or completion_price of its own under the cost "
                f"ceiling of {ceiling:g}"
            )
        own = ceiling if self.cost_ceiling is None else self.cost_ceiling
        return replace(self, cost_ceiling=min(own, ceiling)).client("", 0.0)

    def requests(self) -> ApiRequests:
        """The object that asks the server, with an account of its own; nothing is asked yet."""
        client = ApiClient(self.url, self.key_variable, Retries(timeout_s=self.timeout_s), say)
        spending = Spending(self.cost_ceiling, self.prompt_price, self.completion_price)
        return ApiRequests(client, spending, self.model)

    def text_model(self, requests: ApiRequests, form: Form) -> ApiModel:
        """The model as evaluations of knowledge and code see it.

        Args:
          requests: from `requests`; models that share it share an account.
          form: text or chat; auto is chat on the chat route.
        Returns: the model.
        Raises: ValueError for the form instruction, which needs the tokenizer's end token.
        """
        chosen = self.resolved(form)
        if chosen not in ("text", "chat"):
            raise ValueError(
                f"a model behind a server is asked texts and chats; the form {chosen} needs a local model "
                "(where auto means it: route=chat)"
            )
        return ApiModel(
            requests,
            "text" if chosen == "text" else "chat",
            self.concurrency,
            self.tokens_name,
            self.max_new_tokens,
            self.text_start,
        )

    def resolved(self, form: str, otherwise: str = "instruction") -> str:
        """What the form auto stands for on this route.

        Args:
          form: auto, or a form that the caller knows.
          otherwise: what auto means where the model is not a chat model.
        Returns: chat or `otherwise` for auto, else `form`.
        """
        if form != "auto":
            return form
        return "chat" if self.route == "chat" else otherwise

    def respondent(self, answers: Answers, name: str = "", temperature: float = 1.0) -> Respondent:
        """A respondent that writes, or whose options are scored.

        Args:
          answers: written, or by log-probabilities of label or words.
          name: in tables; the model's own if empty.
          temperature: of written answers.
        Returns: the respondent; nothing is asked yet.
        Raises: ValueError for words on the chat route.
        """
        client = self.client(name, temperature)
        return client if answers == "written" else ApiScoringRespondent(client, answers, self.route)
