"""Continuous batching: requests of any length decode side by side; a finished one is replaced at once.

    engine = Engine(lm, EngineConfig(slots=8))
    ids = [engine.submit(Request(prompt, max_new_tokens=64)) for prompt in prompts]
    done = engine.run()                      # {id: Completion}

A slot holds one text. Prompts are read chunk by chunk, one prompt at a time and a few chunks between two
decoding steps, so that texts in progress never wait long for a long prompt. The last token of a prompt is
read by the decoding step, which thus makes the first new token like every other.

The engine decides what is read and decoded next. `PrefixCache` knows what each slot holds, so that a common
prefix is read once; `ModelRunner` runs the programs on the device. An engine is driven by one thread.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Mapping

import numpy as np

from jaxmoe.generation.engine_programs import PromptChunk, StepRows
from jaxmoe.generation.model_runner import ModelRunner, Served
from jaxmoe.generation.prefix_cache import PrefixCache
from jaxmoe.generation.requests import MOST_ALTERNATIVES, Completion, FinishReason, NewToken, Request
from jaxmoe.generation.row_sampling import RowSampling
from jaxmoe.model import params

# below this number of tokens, a separate program for short parts of prompts saves nothing
_LEAST_CHUNK = 16
_MOST_TEMPERATURE = 1e6


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """The shape of an engine.

    Attributes:
      slots: texts in progress at a time.
      max_length: longest text, prompt and answer together, in tokens; a server takes at most the positions of
        its model, and the default is lowered to them.
      chunk: prompt tokens that are read at once.
      chunks: the most chunks read between two decoding steps: more of them fill empty slots sooner but make
        the texts in progress wait longer.
      sizes: lengths that the cache may have besides the largest, which is max_length and a chunk; it grows to
        the next one when a text needs it, and shrinks when none does.
      prefix_reuse: take over the keys and values of a slot whose text begins the same way.
    """

    slots: int = 8
    max_length: int = 2048
    chunk: int = 128
    chunks: int = 4
    sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        for name in ("slots", "max_length", "chunk", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)} (engine.{name})")

    def chunk_of(self, tokens: int) -> int:
        """Length of the program that reads this many tokens of a prompt: a whole chunk, or a quarter of one.

        >>> EngineConfig(chunk=128).chunk_of(20), EngineConfig(chunk=128).chunk_of(33)
        (32, 128)
        """
        quarter = self.chunk // 4
        return quarter if tokens <= quarter and quarter >= _LEAST_CHUNK else self.chunk

    def lengths(self) -> tuple[int, ...]:
        """Lengths of the cache, ascending. A chunk is written whole, so the longest text needs one more."""
        most = self.max_length + self.chunk
        return (*sorted(size for size in self.sizes if size < most), most)


@dataclasses.dataclass
class EngineStatistics:
    """What an engine has done: `wasted` counts rows that a decoding step ran without a text.

    With few texts a step runs fewer rows than there are slots (`model_runner.row_numbers`).
    """

    steps: int = 0
    decoded: int = 0
    wasted: int = 0
    prefilled: int = 0
    reused: int = 0
    finished: int = 0


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
        """Positions that the text may need at most."""
        return len(self.prompt) + self.request.max_new_tokens

    @property
    def last(self) -> int:
        """The token to be read next once the prompt has been read."""
        return self.new[-1].token if self.new else int(self.prompt[-1])


class Engine:
    """A loaded model that serves requests; see the module's docstring.

    Args:
      lm: the model.
      config: slots and lengths.
      adapters: the run of experts that belongs to each adapter, by name (`jaxmoe.adapters.stack`).
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
        # one column for all experts, or one for each if a row may use only some
        self._columns = max((stop for _, stop in self._adapters.values()), default=1)
        if turning := next((rope.rope_type for rope in lm.config.ropes if rope.depends_on_length), None):
            raise ValueError(
                f"rope_type {turning} turns with the longest text of a batch: texts would depend on each "
                "other; decode this model in batches (lm.generate)"
            )
        self.statistics = EngineStatistics()
        self._vocabulary = lm.config.vocab_size
        self._ids = itertools.count()
        self._waiting: deque[_Text] = deque()
        self._reading: tuple[int, _Text] | None = None
        self._active: dict[int, _Text] = {}
        self._cancelled: dict[int, FinishReason] = {}
        self._prefixes = PrefixCache(self.config.slots)
        self._runner = ModelRunner(lm, self.config.slots, self.config.lengths()[0])

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
        if len(request.prompt) + request.max_new_tokens > self.config.max_length:
            raise ValueError(
                f"prompt and answer must fit {self.config.max_length} tokens (engine.max_length); got "
                f"{len(request.prompt)} + {request.max_new_tokens}"
            )
        try:
            prompt = np.asarray(request.prompt, np.int64)
        except OverflowError:
            raise ValueError(
                f"token ids must lie in 0..{self._vocabulary - 1}; got one beyond 64 bits"
            ) from None
        if prompt.ndim != 1 or not len(prompt):
            raise ValueError("a prompt must be a list of at least one token id")
        if prompt.min() < 0 or prompt.max() >= self._vocabulary:
            wrong = prompt[(prompt < 0) | (prompt >= self._vocabulary)][0]
            raise ValueError(f"token ids must lie in 0..{self._vocabulary - 1}; got {wrong}")
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {request.max_new_tokens}")
        if isinstance(request.experts, str) and request.experts not in self._adapters:
            known = ", ".join(self._adapters) or "True and False"
            raise ValueError(f"experts must be one of {known}; got {request.experts!r}")
        if not 0 <= request.alternatives <= MOST_ALTERNATIVES:
            raise ValueError(f"alternatives must lie in 0..{MOST_ALTERNATIVES}; got {request.alternatives}")
        if not -(2**63) <= request.seed < 2**63:
            raise ValueError(f"seed must fit 64 bits; got {request.seed}")
        if request.sampling.temperature > _MOST_TEMPERATURE:
            raise ValueError(
                f"temperature must be at most {_MOST_TEMPERATURE:g}; got {request.sampling.temperature}"
            )

    def cancel(self, id: int, reason: FinishReason = "cancelled") -> None:
        """Ends a request at the next step, before another token; one that is already gone is ignored.

        Args:
          id: of the request.
          reason: given in its completion.
        """
        self._cancelled[id] = reason

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
        """Runs one request to its end, alongside whatever else is in progress."""
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
        self._runner.take(weights)
        self.forget()

    def close(self) -> None:
        """Frees what the device holds for this engine alone; nothing can be decoded any more."""
        del self._runner

    def forget(self) -> None:
        """Reuses nothing from earlier texts: later requests are placed and read as in a new engine."""
        self._prefixes.forget()

    # -- the loop

    def step(self) -> dict[int, Completion]:
        """Reads some chunks of prompts and decodes one token of every text in progress.

        Returns: requests that ended in this step.
        """
        done = self._end_cancelled()
        for _ in range(self.config.chunks):
            self._admit()
            if self._reading is None:
                break
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
            done[text.id] = self._completion(text, self._cancelled[text.id])
        if self._reading is not None and self._reading[1].id in self._cancelled:
            slot, text = self._reading
            self._reading = None
            done[text.id] = self._finish(slot, text, self._cancelled[text.id])
        for slot, text in list(self._active.items()):
            if text.id in self._cancelled:
                del self._active[slot]
                done[text.id] = self._finish(slot, text, self._cancelled[text.id])
        self._cancelled.clear()
        return done

    def _admit(self) -> None:
        """Gives the first waiting request a slot, when no other prompt is being read."""
        if self._reading is not None or not self._waiting or len(self._active) == self.config.slots:
            return
        text = self._waiting.popleft()
        self._fit(text)
        free = [slot for slot in range(self.config.slots) if slot not in self._active]
        # the last token is read by a decoding step; tokens whose log-probability is asked for are read again
        if self.config.prefix_reuse and not text.request.prompt_logprobs:
            slot, source, shared = self._prefixes.place(text.prompt[:-1], text.request.experts, free)
        else:
            slot, source, shared = self._prefixes.oldest(free)
        if source is not None and source != slot:
            self._runner.copy(source, slot)
        text.length = text.reused = shared
        self.statistics.reused += shared
        self._hold(slot, text)
        self._reading = (slot, text)

    def _read(self) -> None:
        """Reads the next chunk of the current prompt; once fully read, it joins the texts in progress."""
        assert self._reading is not None
        slot, text = self._reading
        end = len(text.prompt) - 1
        if text.length < end:
            part = text.prompt[text.length : min(text.length + self.config.chunk, end)]
            chunk = self.config.chunk_of(len(part))
            tokens = np.zeros(chunk, np.int32)
            tokens[: len(part)] = part
            targets = np.zeros(chunk, np.int32)
            targets[: len(part)] = text.prompt[text.length + 1 : text.length + 1 + len(part)]
            count = text.request.alternatives
            where = np.int32(text.length), np.int32(slot)
            chunked = PromptChunk(tokens, targets, *where, self._allowed(text.request.experts))  # type: ignore[arg-type]
            scored = self._runner.read(chunked, scored=text.request.prompt_logprobs, alternatives=count)
            if scored is not None:
                text.scored += [scored.token(int(targets[i]), i, count) for i in range(len(part))]
            text.length += len(part)
            self.statistics.prefilled += len(part)
            self._hold(slot, text)
        if text.length == end:
            self._active[slot] = text
            self._reading = None

    def _decode(self) -> dict[int, Completion]:
        slots, requests = self._slots_to_run(), [text.request for text in self._active.values()]
        tokens, scored = self._runner.step(
            self._rows(slots),
            max(request.alternatives for request in requests),
            expert_weights=any(request.expert_weights for request in requests),
            score_draws=any(request.score_draws for request in requests),
        )
        self.statistics.steps += 1
        self.statistics.decoded += len(self._active)
        self.statistics.wasted += len(slots) - len(self._active)
        done = {}
        for row, slot in enumerate(slots):
            if slot not in self._active:
                continue
            text = self._active[slot]
            shown = self._reported(text.request)
            token = scored.token(int(tokens[row]), row, text.request.alternatives, shown)
            text.length += 1
            text.new.append(token)
            stopped = token.token in text.request.stop_tokens
            if text.request.on_token is not None:
                stopped = bool(text.request.on_token(token)) or stopped
            if stopped or len(text.new) == text.request.max_new_tokens:
                del self._active[slot]
                done[text.id] = self._finish(slot, text, "stop" if stopped else "length")
        return done

    def _slots_to_run(self) -> list[int]:
        """Slots with a text, ascending, and some free ones to make up the number of rows."""
        count = self._runner.rows_for(len(self._active))
        free = [slot for slot in range(self.config.slots) if slot not in self._active]
        return sorted([*self._active, *free[: count - len(self._active)]])

    def _rows(self, slots: list[int]) -> StepRows:
        count = len(slots)
        tokens, drawn = np.zeros(count, np.int32), np.zeros(count, np.int32)
        positions = np.full(count, self._runner.length, np.int32)
        temperature, top_p = np.zeros(count, np.float32), np.ones(count, np.float32)
        top_k, seed = np.zeros(count, np.int32), np.zeros(count, np.int32)
        experts = np.ones((count, self._columns), bool)
        for row, slot in enumerate(slots):
            if slot not in self._active:
                continue
            text = self._active[slot]
            request = text.request
            tokens[row], positions[row], drawn[row] = text.last, text.length, len(text.new)
            settings = request.sampling
            temperature[row] = 0 if settings.is_greedy else settings.temperature
            # a limit beyond the vocabulary leaves nothing out, and it need not fit 32 bits
            top_k[row], top_p[row] = min(settings.top_k, self._vocabulary), settings.top_p
            seed[row] = np.int64(request.seed).astype(np.int32)
            experts[row] = self._allowed(request.experts)
        which = None if count == self.config.slots else np.asarray(slots, np.int32)
        sampling = RowSampling(temperature, top_k, top_p, seed)  # type: ignore[arg-type]
        return StepRows(tokens, positions, drawn, sampling, experts, which)  # type: ignore[arg-type]

    def _allowed(self, experts: bool | str) -> np.ndarray:
        """Which experts a request may use, [columns]."""
        if isinstance(experts, bool):
            return np.full(self._columns, experts)
        start, stop = self._adapters[experts]
        columns = np.arange(self._columns)
        return (columns >= start) & (columns < stop)

    def _reported(self, request: Request) -> slice:
        """The experts whose weights are reported to a request: those that it uses."""
        if not request.expert_weights or request.experts is False:
            return slice(0)
        return slice(None) if request.experts is True else slice(*self._adapters[str(request.experts)])

    def _hold(self, slot: int, text: _Text) -> None:
        """Records what is in a slot and when it was last of use."""
        whole = np.concatenate([text.prompt, np.asarray([one.token for one in text.new], np.int32)])
        self._prefixes.hold(slot, whole[: text.length], text.request.experts)

    def _finish(self, slot: int, text: _Text, reason: FinishReason) -> Completion:
        self._hold(slot, text)
        return self._completion(text, reason)

    def _completion(self, text: _Text, reason: FinishReason) -> Completion:
        self.statistics.finished += 1
        # a prompt that was not read to its end does not have all of them
        asked = text.request.prompt_logprobs and (reason != "cancelled" or text.new)
        return Completion(text.new, reason, text.scored if asked else None, text.reused)

    def _fit(self, new: _Text) -> None:
        """Gives the cache the smallest length that holds the texts in progress and a new one."""
        # the last chunk of a prompt is written whole
        read = len(new.prompt) + self.config.chunk
        needed = max([read, new.most, *(text.most for text in self._active.values())])
        length = next(size for size in self.config.lengths() if size >= needed)
        now = self._runner.length
        if length > now or (length < now and not self._active):
            self._runner.resize(length)
            self._prefixes.cut(length)
