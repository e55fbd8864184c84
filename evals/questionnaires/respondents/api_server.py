"""A server as a setting: where a model is, how it is asked, what it may cost; and the respondent from it.

Not covered: asking (api_respondent, api_scoring).
"""

from dataclasses import dataclass
from typing import Literal

from evals.questionnaires.respondent import Respondent
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.api_scoring import ApiScoringRespondent, Route

Answers = Literal["label", "words", "written"]


@dataclass(frozen=True)
class ServerConfig:
    """A model behind an OpenAI-compatible server.

    Attributes:
      url: base address, as http://localhost:8000/v1.
      model: its name there.
      route: chat, or completions for base models; where log-probabilities are scored.
      key_variable: the environment variable that holds the key.
      max_new_tokens: of a written answer, thoughts included; reasoning models need some thousands.
      tokens_name: max_tokens, or max_completion_tokens where the server wants that.
      concurrency: requests side by side.
      cost_ceiling: the most to be spent in an output folder, over all sessions; null for none.
      prompt_price, completion_price: of a million tokens.
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

    def client(self, name: str = "", temperature: float = 1.0, least_tokens: int = 1) -> ApiRespondent:
        """A respondent that writes.

        Args:
          name: in tables; the model's own if empty.
          temperature: of what it writes.
          least_tokens: what it writes needs as many; the setting where that is more.
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
            shown_as=name,
        )

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
