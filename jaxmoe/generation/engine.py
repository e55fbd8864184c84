"""Continuous batching: requests of any length decode side by side, and a finished one is replaced at once.

    engine = Engine(lm, EngineConfig(slots=8))
    ids = [engine.submit(Request(prompt, max_new_tokens=64)) for prompt in prompts]
    done = engine.run()                      # {id: Completion}

A slot holds one text. Prompts are read chunk by chunk between two decoding steps, one prompt at a time, so
that texts in progress never wait for a long prompt. What a slot has read stays there until another text
needs the slot: a request that begins like it takes over its keys and values instead of reading them again.
The last token of a prompt is read by the decoding step, which so makes the first new token as every other.

One thread drives an engine. Three programs are compiled for each size of the cache: a step, a chunk, a copy.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.generation import kv_cache, row_sampling, slot_cache
from jaxmoe.generation.row_sampling import RowSampling
from jaxmoe.generation.sampling import GREEDY, Sampling, log_probability
from jaxmoe.generation.slot_cache import SlotCache
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.shapes import Array, Bool, Float, Int
from jaxmoe.model.transformer import Decoder

FinishReason = Literal["stop", "length", "cancelled"]
# alternatives to a token that may be asked for
MOST_ALTERNATIVES = 20
# prefixes shorter than this are read again rather than copied
LEAST_SHARED = 16


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """The shape of an engine.

    Attributes:
      slots: texts in progress at a time.
      max_length: longest text, prompt and answer together, in tokens.
      chunk: prompt tokens that are read between two decoding steps.
      sizes: lengths that the cache may have besides the largest, which is max_length and a chunk; it grows to
        the next one when a text needs it, and shrinks when none does.
      prefix_reuse: take over the keys and values of a slot whose text begins alike.
    """

    slots: int = 8
    max_length: int = 2048
    chunk: int = 128
    sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        for name in ("slots", "max_length", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)} (engine.{name})")

    def lengths(self) -> tuple[int, ...]:
        """Lengths of the cache, ascending. A chunk is written whole, so the longest text needs one more."""
        most = self.max_length + self.chunk
        return (*sorted(size for size in self.sizes if size < most), most)


@dataclasses.dataclass(frozen=True)
class Request:
    """One text to continue.

    Attributes:
      prompt: token ids; at least one.
      max_new_tokens: most new tokens.
      sampling: temperature, top-k and top-p.
      seed: of the random numbers; the same seed and prompt give the same tokens, whatever else is decoded.
      stop_tokens: the text ends with the first of these, which is kept.
      experts: True uses all, False the base model alone, a name one of several adapters side by side.
      prompt_logprobs: also the log-probability of each prompt token after the first.
      alternatives: likeliest tokens to report beside each token.
      on_token: called with every new token; True from it ends the text there.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 64
    sampling: Sampling = GREEDY
    seed: int = 0
    stop_tokens: tuple[int, ...] = ()
    experts: bool | str = True
    prompt_logprobs: bool = False
    alternatives: int = 0
    on_token: "Callable[[NewToken], bool | None] | None" = dataclasses.field(default=None, compare=False)


class NewToken(NamedTuple):
    """A token of a text.

    Attributes:
      logprob: under the model as it is (temperature 1, whole vocabulary).
      alternatives: the likeliest tokens in its place with theirs, as many as were asked for.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Completion(NamedTuple):
    """What became of a request.

    Attributes:
      new: new tokens, a stop token included.
      reason: stop (a stop token, or on_token), length, cancelled.
      prompt: prompt tokens 1, 2, ..; None unless their log-probabilities were asked for.
      reused: prompt tokens whose keys and values were there already.
    """

    new: list[NewToken]
    reason: FinishReason
    prompt: list[NewToken] | None = None
    reused: int = 0

    @property
    def tokens(self) -> list[int]:
        """Ids of the new tokens."""
        return [one.token for one in self.new]

    @property
    def logprobs(self) -> list[float]:
        """Log-probabilities of the new tokens."""
        return [one.logprob for one in self.new]


@dataclasses.dataclass
class EngineStatistics:
    """What an engine has done: `wasted` counts slots that a decoding step ran empty."""

    steps: int = 0
    decoded: int = 0
    wasted: int = 0
    prefilled: int = 0
    reused: int = 0
    finished: int = 0


class StepRows(NamedTuple):
    """What a decoding step is told of each slot; free slots have a position beyond the cache."""

    tokens_B: Int[Array, " B"]
    positions_B: Int[Array, " B"]
    drawn_B: Int[Array, " B"]
    sampling: RowSampling
    experts_BE: Bool[Array, "B E"]


class Alternatives(NamedTuple):
    """The K likeliest tokens in each place, likeliest first."""

    tokens_BK: Int[Array, "B K"]
    logprobs_BK: Float[Array, "B K"]

    def of(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        """A row's first `count`; call it on arrays that have been fetched.

        Args:
          row: of the batch.
          count: of alternatives, at most as many as were kept.
        Returns: token ids and log-probabilities in nats, the likeliest first.
        """
        ids, logprobs = self.tokens_BK[row, :count], self.logprobs_BK[row, :count]
        return tuple((int(i), float(p)) for i, p in zip(ids, logprobs, strict=True))


class StepResult(NamedTuple):
    """What a decoding step chose."""

    tokens_B: Int[Array, " B"]
    logprobs_B: Float[Array, " B"]
    alternatives: Alternatives | None
    cache: SlotCache


@dataclasses.dataclass
class _Text:
    """A request in a slot. `length`: tokens of it whose keys and values are in the slot."""

    id: int
    request: Request
    prompt: np.ndarray
    length: int
    reused: int
    new: list[NewToken] = dataclasses.field(default_factory=list)
    scored: list[NewToken] = dataclasses.field(default_factory=list)

    @property
    def most(self) -> int:
        """Positions that the text may need."""
        return len(self.prompt) + self.request.max_new_tokens

    @property
    def last(self) -> int:
        """The token that is to be read next once the prompt is."""
        return self.new[-1].token if self.new else int(self.prompt[-1])


class Served(Protocol):
    """What an engine needs of a model; `jaxmoe.LanguageModel` is one."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    @property
    def weights(self) -> params.ModelParams:
        """The model taken apart."""
        ...

    @property
    def mesh(self) -> Mesh:
        """Where the weights lie."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """Of activations and products."""
        ...


class Engine:
    """A loaded model that serves requests; see the module's docstring.

    Args:
      lm: the model.
      config: slots and lengths.
      adapters: by name, the run of experts that is an adapter (`jaxmoe.adapters.stack`).
    Raises: ValueError for a model whose rotary embedding depends on the longest text of a batch.
    """

    def __init__(
        self,
        lm: Served,
        config: EngineConfig | None = None,
        adapters: Mapping[str, tuple[int, int]] | None = None,
    ):
        self.config = config or EngineConfig()
        self._adapters = dict(adapters or {})
        # one column for all experts, or one for each where a row may use some
        self._columns = max((stop for _, stop in self._adapters.values()), default=1)
        if lm.config.rope.rope_type == "dynamic":
            raise ValueError(
                "rope_type dynamic turns with the longest text of a batch: texts would depend on each other; "
                "decode this model in batches (lm.generate)"
            )
        self.statistics = EngineStatistics()
        self._lm = lm
        self._weights: params.ModelParams = lm.weights
        self._unrolled = next(iter(lm.mesh.devices.flat)).platform == "cpu"
        self._ids = itertools.count()
        self._waiting: deque[_Text] = deque()
        self._reading: tuple[int, _Text] | None = None
        self._active: dict[int, _Text] = {}
        # what is in each slot, whether a text uses it or not; with which experts it was read
        self._held: list[tuple[np.ndarray, bool | str]] = [(np.zeros(0, np.int32), True)] * self.config.slots
        self._used = [0] * self.config.slots
        self._clock = itertools.count(1)
        self._cancelled: set[int] = set()
        self._cache = self._empty(self.config.lengths()[0])

    # -- requests

    def submit(self, request: Request) -> int:
        """Queues a request; its number names it. Raises ValueError as `check` does."""
        self.check(request)
        text = _Text(next(self._ids), request, np.asarray(request.prompt, np.int32), 0, 0)
        self._waiting.append(text)
        return text.id

    def check(self, request: Request) -> None:
        """Refuses a request that cannot be served; may be called from any thread.

        Raises: ValueError for an empty or too long prompt, ids outside the vocabulary, settings out of range.
        """
        prompt = np.asarray(request.prompt, np.int64)
        if prompt.ndim != 1 or not len(prompt):
            raise ValueError("a prompt must be a list of at least one token id")
        vocabulary = self._lm.config.vocab_size
        if prompt.min() < 0 or prompt.max() >= vocabulary:
            wrong = prompt[(prompt < 0) | (prompt >= vocabulary)][0]
            raise ValueError(f"token ids must lie in 0..{vocabulary - 1}; got {wrong}")
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {request.max_new_tokens}")
        if isinstance(request.experts, str) and request.experts not in self._adapters:
            known = ", ".join(self._adapters) or "True and False"
            raise ValueError(f"experts must be one of {known}; got {request.experts!r}")
        if not 0 <= request.alternatives <= MOST_ALTERNATIVES:
            raise ValueError(f"alternatives must lie in 0..{MOST_ALTERNATIVES}; got {request.alternatives}")
        if len(prompt) + request.max_new_tokens > self.config.max_length:
            raise ValueError(
                f"prompt and answer must fit {self.config.max_length} tokens (engine.max_length); got "
                f"{len(prompt)} + {request.max_new_tokens}"
            )

    def cancel(self, id: int) -> None:
        """Ends a request at the next step; one that is not there any more is let pass."""
        self._cancelled.add(id)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or in progress."""
        return not (self._waiting or self._reading or self._active)

    def run(self) -> dict[int, Completion]:
        """Steps until nothing is left; every completion by its request's number."""
        done: dict[int, Completion] = {}
        while not self.idle:
            done |= self.step()
        return done

    def run_one(self, request: Request) -> Completion:
        """One request to its end, beside whatever else is in progress."""
        id = self.submit(request)
        while not (done := self.step()).get(id):
            pass
        return done[id]

    def update(self, weights: params.ModelParams) -> None:
        """Serves with other weights of the same shapes; what was read with the old ones is forgotten.

        Raises: ValueError while requests are in progress.
        """
        if not self.idle:
            raise ValueError(
                "weights are changed between requests; some are in progress (run or cancel them)"
            )
        self._weights = weights
        self._held = [(np.zeros(0, np.int32), True)] * self.config.slots

    # -- the loop

    def step(self) -> dict[int, Completion]:
        """Reads one chunk of a prompt and decodes one token of every text in progress.

        Returns: requests that ended in this step.
        """
        done = self._end_cancelled()
        self._admit()
        if self._reading is not None:
            self._read()
        if self._active:
            done |= self._decode()
        return done

    def _end_cancelled(self) -> dict[int, Completion]:
        if not self._cancelled:
            return {}
        done = {}
        for text in [t for t in self._waiting if t.id in self._cancelled]:
            self._waiting.remove(text)
            done[text.id] = self._completion(text, "cancelled")
        if self._reading is not None and self._reading[1].id in self._cancelled:
            slot, text = self._reading
            self._reading = None
            done[text.id] = self._finish(slot, text, "cancelled")
        for slot, text in list(self._active.items()):
            if text.id in self._cancelled:
                del self._active[slot]
                done[text.id] = self._finish(slot, text, "cancelled")
        self._cancelled.clear()
        return done

    def _admit(self) -> None:
        """Gives the first waiting request a slot, when no other prompt is being read."""
        if self._reading is not None or not self._waiting or len(self._active) == self.config.slots:
            return
        text = self._waiting.popleft()
        self._fit(text.most)
        slot, source, shared = self._place(text)
        if source is not None and source != slot:
            self._cache = _copy(self._cache, np.int32(source), np.int32(slot))
        text.length = text.reused = shared
        self.statistics.reused += shared
        self._hold(slot, text)
        self._reading = (slot, text)

    def _place(self, text: _Text) -> tuple[int, int | None, int]:
        """A free slot, the slot whose beginning the text shares, and how many tokens of it."""
        free = [slot for slot in range(self.config.slots) if slot not in self._active]
        oldest = min(free, key=lambda slot: self._used[slot])
        # the last token is read by a decoding step; tokens whose log-probability is asked for are read again
        if not self.config.prefix_reuse or text.request.prompt_logprobs:
            return oldest, None, 0
        shared = [
            _shared(held, text.prompt[:-1]) if experts == text.request.experts else 0
            for held, experts in self._held
        ]
        best = max(range(self.config.slots), key=lambda slot: (shared[slot], slot in free))
        if shared[best] < LEAST_SHARED:
            return oldest, None, 0
        # a slot that holds nothing else is taken as it is; a copy leaves another's text to later requests
        taken = best in free and shared[best] == len(self._held[best][0])
        return (best if taken else oldest), best, shared[best]

    def _read(self) -> None:
        """Reads the next chunk of the prompt at hand; a prompt that is read joins the texts in progress."""
        assert self._reading is not None
        slot, text = self._reading
        end, chunk = len(text.prompt) - 1, self.config.chunk
        if text.length < end:
            part = text.prompt[text.length : min(text.length + chunk, end)]
            tokens = np.zeros(chunk, np.int32)
            tokens[: len(part)] = part
            targets = np.zeros(chunk, np.int32)
            targets[: len(part)] = text.prompt[text.length + 1 : text.length + 1 + len(part)]
            asked = text.request.prompt_logprobs
            scored, self._cache = _read_chunk(
                self._weights.definition,
                self._weights.trainable,
                self._weights.frozen,
                tokens,
                targets,
                np.int32(text.length),
                np.int32(slot),
                self._cache,
                self._allowed(text.request.experts)[None],
                scored=asked,
                alternatives=_compiled_for(text.request.alternatives) if asked else 0,
                dtype=self._lm.dtype,
                unrolled=self._unrolled,
            )
            if scored is not None:
                count = text.request.alternatives
                logprobs_C, others = jax.device_get(scored)
                text.scored += [
                    NewToken(int(targets[i]), float(logprobs_C[i]), others.of(i, count) if others else ())
                    for i in range(len(part))
                ]
            text.length += len(part)
            self.statistics.prefilled += len(part)
            self._hold(slot, text)
        if text.length == end:
            self._active[slot] = text
            self._reading = None

    def _decode(self) -> dict[int, Completion]:
        most = max(text.request.alternatives for text in self._active.values())
        result = _step(
            self._weights.definition,
            self._weights.trainable,
            self._weights.frozen,
            self._rows(),
            self._cache,
            alternatives=_compiled_for(most),
            dtype=self._lm.dtype,
            unrolled=self._unrolled,
        )
        self._cache = result.cache
        tokens, logprobs, others = jax.device_get(result[:3])
        self.statistics.steps += 1
        self.statistics.decoded += len(self._active)
        self.statistics.wasted += self.config.slots - len(self._active)
        done = {}
        for slot, text in list(self._active.items()):
            beside = others.of(slot, text.request.alternatives) if others else ()
            token = NewToken(int(tokens[slot]), float(logprobs[slot]), beside)
            text.length += 1
            text.new.append(token)
            stopped = token.token in text.request.stop_tokens
            if text.request.on_token is not None:
                stopped = bool(text.request.on_token(token)) or stopped
            if stopped or len(text.new) == text.request.max_new_tokens:
                del self._active[slot]
                done[text.id] = self._finish(slot, text, "stop" if stopped else "length")
        return done

    def _rows(self) -> StepRows:
        slots = self.config.slots
        beyond = slot_cache.length_of(self._cache)
        tokens, drawn = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        positions = np.full(slots, beyond, np.int32)
        temperature, top_p = np.zeros(slots, np.float32), np.ones(slots, np.float32)
        top_k, seed = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        experts = np.ones((slots, self._columns), bool)
        for slot, text in self._active.items():
            request = text.request
            tokens[slot], positions[slot], drawn[slot] = text.last, text.length, len(text.new)
            settings = request.sampling
            temperature[slot], top_k[slot], top_p[slot] = settings.temperature, settings.top_k, settings.top_p
            seed[slot] = np.int64(request.seed).astype(np.int32)
            experts[slot] = self._allowed(request.experts)
        return StepRows(tokens, positions, drawn, RowSampling(temperature, top_k, top_p, seed), experts)  # type: ignore[arg-type]

    def _allowed(self, experts: bool | str) -> np.ndarray:
        """Which experts a request may use, [columns]."""
        if isinstance(experts, bool):
            return np.full(self._columns, experts)
        start, stop = self._adapters[experts]
        columns = np.arange(self._columns)
        return (columns >= start) & (columns < stop)

    def _hold(self, slot: int, text: _Text) -> None:
        """Notes what is in a slot and when it was last of use."""
        whole = np.concatenate([text.prompt, np.asarray([one.token for one in text.new], np.int32)])
        self._held[slot] = (whole[: text.length], text.request.experts)
        self._used[slot] = next(self._clock)

    def _finish(self, slot: int, text: _Text, reason: FinishReason) -> Completion:
        self._hold(slot, text)
        return self._completion(text, reason)

    def _completion(self, text: _Text, reason: FinishReason) -> Completion:
        self.statistics.finished += 1
        asked = text.request.prompt_logprobs and reason != "cancelled"
        return Completion(text.new, reason, text.scored if asked else None, text.reused)

    # -- the cache

    def _empty(self, length: int) -> SlotCache:
        return slot_cache.empty_cache(
            self._lm.config,
            self.config.slots,
            length,
            self._lm.dtype,
            unrolled=self._unrolled,
            mesh=self._lm.mesh,
        )

    def _fit(self, most: int) -> None:
        """Gives the cache the least length that holds the texts in progress and one of `most` tokens."""
        needed = max([most + self.config.chunk, *(text.most for text in self._active.values())])
        length = next(size for size in self.config.lengths() if size >= needed)
        now = slot_cache.length_of(self._cache)
        if length > now or (length < now and not self._active):
            self._cache = _resized(self._cache, length)
            self._held = [(held[:length], experts) for held, experts in self._held]


def _compiled_for(alternatives: int) -> int:
    """None, one or all: three programs serve every wish."""
    return alternatives if alternatives <= 1 else MOST_ALTERNATIVES


def _shared(held: np.ndarray, prompt: np.ndarray) -> int:
    """How many tokens two texts begin with in common."""
    most = min(len(held), len(prompt))
    different = np.flatnonzero(held[:most] != prompt[:most])
    return int(different[0]) if len(different) else most


@partial(
    jax.jit,
    static_argnames=("definition", "alternatives", "dtype", "unrolled"),
    donate_argnames=("cache",),
)
def _step(
    definition: nnx.GraphDef[Decoder],
    trainable: params.Params,
    frozen: params.Params,
    rows: StepRows,
    cache: SlotCache,
    *,
    alternatives: int,
    dtype: DTypeLike,
    unrolled: bool,
) -> StepResult:
    """Reads the next token of every slot and chooses the one after it."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    blocks = kv_cache.blocks(model, unrolled=unrolled)
    call = ExpertCall(experts_BE=rows.experts_BE)
    hidden_BD, cache = slot_cache.read_tokens(
        model, blocks, rows.tokens_B, rows.positions_B, cache, dtype=dtype, call=call
    )
    logits_BV = model.logits(hidden_BD[:, None])[:, 0]
    chosen = row_sampling.choose(logits_BV, rows.sampling, rows.drawn_B)
    others = _likeliest(logits_BV, alternatives) if alternatives else None
    return StepResult(chosen.tokens_B, chosen.logprobs_B, others, cache)


def _likeliest(logits_BV: Float[Array, "B V"], count: int) -> Alternatives:
    best_BK, tokens_BK = jax.lax.top_k(logits_BV.astype(jnp.float32), min(count, logits_BV.shape[-1]))
    total_B = jax.nn.logsumexp(logits_BV.astype(jnp.float32), axis=-1)
    return Alternatives(tokens_BK, best_BK - total_B[:, None])


@partial(
    jax.jit,
    static_argnames=("definition", "scored", "alternatives", "dtype", "unrolled"),
    donate_argnames=("cache",),
)
def _read_chunk(
    definition: nnx.GraphDef[Decoder],
    trainable: params.Params,
    frozen: params.Params,
    tokens_C: Int[Array, " C"],
    targets_C: Int[Array, " C"],
    start: Int[Array, ""],
    slot: Int[Array, ""],
    cache: SlotCache,
    experts_BE: Bool[Array, "1 E"],
    *,
    scored: bool,
    alternatives: int,
    dtype: DTypeLike,
    unrolled: bool,
) -> tuple[tuple[Float[Array, " C"], Alternatives | None] | None, SlotCache]:
    """Reads a chunk of a prompt; `scored` also says how likely the token after each was."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    blocks = kv_cache.blocks(model, unrolled=unrolled)
    hidden_CD, cache = slot_cache.read_chunk(
        model, blocks, tokens_C, start, slot, cache, dtype=dtype, call=ExpertCall(experts_BE=experts_BE)
    )
    if not scored:
        return None, cache
    logits_CV = model.logits(hidden_CD[None])[0]
    others = _likeliest(logits_CV, alternatives) if alternatives else None
    return (log_probability(logits_CV, targets_C), others), cache


@partial(jax.jit, donate_argnames=("cache",))
def _copy(cache: SlotCache, source: Int[Array, ""], target: Int[Array, ""]) -> SlotCache:
    return slot_cache.copy_slot(cache, source, target)


@partial(jax.jit, static_argnames=("length",))
def _resized(cache: SlotCache, length: int) -> SlotCache:
    return slot_cache.resized(cache, length)
