"""The settings of an evaluation: the model, the suite, and a section for each suite."""

from dataclasses import dataclass, field
from typing import Literal

from evals.models.engine_texts import Decoding
from evals.questionnaires.respondents.api_server import ServerConfig
from jaxmoe.model.quantized import QuantizedDtype
from training.runtime import config as configs
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.given_models import check_run_or_base
from training.suites.behavior import BehaviorConfig
from training.suites.coding import CodingConfig
from training.suites.knowledge import KnowledgeConfig

Suite = Literal["knowledge", "coding", "behavior"]


@dataclass(frozen=True)
class EvalConfig:
    """Measure what a model knows or can do.

    Attributes:
      output: folder for results.json and items.jsonl.
      base: checkpoint to measure: a folder, .gguf file, named model or hub id; or give run instead.
      run: output folder of a pretraining, fine-tuning or PPO run, whose model is measured.
      step: checkpoint of the run; null takes the newest.
      suite: what to measure; the section of that name has its settings.
      adapter: folder of a LoRAMoE, MoE-PEFT or PEFT LoRA adapter; null measures the base alone.
      tokenizer: folder or hub id; null takes the base's.
      dtype: float32, bfloat16 or float16, of weights and activations.
      base_dtype: int8 and nf4 quantize the kernels of a base's attention and feed-forward; null holds them in
        dtype. A run keeps its own.
      batch_size: rows the model works on at a time; a multiple of mesh data x fsdp x expert.
      decoding: batches run until their longest text ends; engine replaces each text as soon as it ends, which
        pays off for large models whose answers differ greatly in length. Greedy texts are the same either
        way, sampled ones differ.
      max_length: tokens of prompt and response together; null is the model's limit.
      confidence: confidence level of the intervals.
      against: output folder of another evaluation of the same items, to compare with.
      overwrite: replace results that are already in the output folder.
      seed: of whatever is drawn: samples, solved examples, wrong choices, conduct tasks.
      progress: show progress: a bar on a terminal, elsewhere one line a minute.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    base: str | None = None
    run: str | None = None
    step: int | None = None
    suite: Suite = "knowledge"
    adapter: str | None = None
    tokenizer: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    base_dtype: QuantizedDtype | None = None
    batch_size: int = 16
    decoding: Decoding = "batches"
    max_length: int | None = None
    seed: int = 0
    confidence: float = 0.95
    against: str | None = None
    overwrite: bool = False
    progress: bool = True
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    coding: CodingConfig = field(default_factory=CodingConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @property
    def server(self) -> ServerConfig | None:
        """The server of the model under test; None if the model is loaded here."""
        sections = {"knowledge": self.knowledge, "coding": self.coding, "behavior": self.behavior}
        return sections[self.suite].server

    @property
    def subject(self) -> str:
        """The model under test, as titles name it."""
        server = self.server
        name = str(self.run or self.base) if server is None else f"{server.model} at {server.url}"
        return name if self.adapter is None else f"{name} + {self.adapter}"

    def __post_init__(self) -> None:
        if self.server is not None:
            self._check_served()
        else:
            check_run_or_base(
                self.run, self.step, self.base, adapter=self.adapter, base_dtype=self.base_dtype
            )
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1; got {self.confidence}")

    def _check_served(self) -> None:
        """Refuses settings of a model loaded here, which would be ignored for one behind a server."""
        if (self.run, self.base) != (None, None):
            raise ValueError(f"{self.suite}.server takes the place of base and run; leave them out")
        if self.step is not None:
            raise ValueError(f"step goes with run; the server of {self.suite}.server has no steps")
        for name in ("adapter", "tokenizer", "base_dtype", "max_length"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} goes with base; the server of {self.suite}.server has its own")
