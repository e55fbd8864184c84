"""A jaxmoe.LanguageModel and its tokenizer as a TextModel: batches of fixed size, few padded lengths.

Rows are sorted by length and padded to one of a few lengths (two per octave), so thousands of questions run
in a handful of compiled shapes and at most a third of a batch is padding. Prompts to continue are padded on
the left, texts to score on the right.

Not covered: computing a prompt once for all continuations to score (shared_prefix); splitting rows among
processes (every process of a run must make the same calls).
"""

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import takewhile
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase

from evals.models.engine_texts import EngineTexts
from evals.models.text_model import ContinuationScores, OnText, cut_at
from jaxmoe.generation.decode import bucket
from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel, positions_from_mask
from jaxmoe.model import cross_entropy as losses
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transformer import Head
from jaxmoe.text.chat_template import Messages
from jaxmoe.text.forms import Form, resolve_form
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import encode_chat_prompt, encode_prompt, pad_id, plain_ids, tokenizable

SHORTEST = 16
STOP_TOKENS = 16


class ScoredIds(NamedTuple):
    """A text to score: its ids, and where the continuation begins in them."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class LocalModel:
    """A local model under test; see `evals.models.text_model.TextModel` for its two methods.

    Attributes:
      form: what a prompt is to the model: text, the beginning of a text; instruction, a LoRAMoE instruction
        (answered after the end token); chat, a user's message in the tokenizer's chat template. Auto becomes
        chat if the tokenizer has a template, else instruction.
      batch_size: rows per call, filled up where fewer are left; must be a multiple of the mesh's
        data x fsdp x expert.
      max_length: tokens of prompt and answer together; the model's own limit if None. Longer prompts lose
        their beginning, with a warning.
      before: chat turns before every prompt, such as a system prompt and solved examples; only for the form
        chat.
      engine: decodes texts in its slots; None decodes them in batches.
    """

    lm: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    form: Form = "text"
    batch_size: int = 16
    max_length: int | None = None
    before: Messages = ()
    engine: EngineTexts | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}; got {self.form!r}")
        # this is how a frozen record sets its own fields; from here on, form is the one in use
        object.__setattr__(self, "form", resolve_form(self.tokenizer, self.form))
        if self.before and self.form != "chat":
            raise ValueError(f"turns before a prompt need the form chat; got form {self.form}")
        ways = batch_ways(self.lm.mesh)
        if self.batch_size < 1 or self.batch_size % ways:
            raise ValueError(
                f"batch_size must be a positive multiple of data x fsdp x expert = {ways}; got "
                f"{self.batch_size}"
            )
        if self.window < 2:
            raise ValueError(f"max_length must be at least 2; got {self.max_length}")

    def with_turns(self, before: Messages) -> "LocalModel":
        """The model with turns of a chat before every prompt."""
        return replace(self, before=before)

    @property
    def window(self) -> int:
        """The most tokens of a row."""
        limit = self.lm.config.max_positions
        return limit if self.max_length is None else min(self.max_length, limit)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples: int = 1,
        seed: int = 0,
    ) -> list[str]:
        """The text after each prompt.

        What is drawn depends on the seed and, in batches, on the call's other prompts.

        Args:
          prompts, max_new_tokens, stop, temperature, top_p, samples, seed: as for `TextModel.generate`.
        Returns: the texts, those of a prompt together.
        """
        return self.generate_each(
            prompts,
            max_new_tokens,
            stop,
            on_text=lambda place, text: None,
            temperature=temperature,
            top_p=top_p,
            samples=samples,
            seed=seed,
        )

    def generate_each(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        on_text: OnText,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples: int = 1,
        seed: int = 0,
    ) -> list[str]:
        """As `generate`, but reports each text when it has ended, or with batches when its batch has.

        Args:
          prompts, max_new_tokens, stop, temperature, top_p, samples, seed: as for `TextModel.generate`.
          on_text: called with the place of each text in the result, and the text.
        Returns: the texts, those of a prompt together.
        """
        room = self.window - max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_new_tokens {max_new_tokens} leaves no room for a prompt in {self.window} tokens; "
                "take fewer, or raise max_length"
            )
        encoded = [self._prompt_ids(prompt) for prompt in prompts]
        self._warn_of_cuts(sum(len(ids) > room for ids in encoded), room)
        kept = [self._cut(ids, room) for ids in encoded]
        if self.engine is not None:
            texts: dict[int, str] = {}

            def ended(place: int, sample: int, ids: list[int]) -> None:
                texts[place * samples + sample] = text = cut_at(self._text_after(kept[place], ids), stop)
                on_text(place * samples + sample, text)

            self.engine.continued(
                kept,
                max_new_tokens,
                sampling=Sampling(temperature, top_p=top_p),
                samples=samples,
                seed=seed,
                ends=self._end_ids | frozenset(self._holding(tuple(stop))),
                on_ids=ended,
            )
            return [texts[place] for place in range(len(kept) * samples)]
        together, rounds = self._shared(samples)
        continued = partial(
            self.lm.generate,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            samples_per_prompt=together,
            stop_tokens=self._stop_tokens(tuple(stop)),
        )
        root = jax.random.key(seed)
        out: list[list[str]] = [[] for _ in prompts]
        for number, rows in enumerate(self._batches([len(ids) for ids in kept], self.batch_size // together)):
            tokens, mask = _padded([kept[row] for row in rows], room, self.pad_id, left=True)
            for turn in range(rounds):
                key = jax.random.fold_in(root, number * rounds + turn) if temperature else None
                new = continued(tokens, mask, key=key).tokens[:, tokens.shape[1] :]
                # prompts repeated to fill the batch are left out
                for place, row in enumerate(dict.fromkeys(rows)):
                    for ids in new[place * together : (place + 1) * together]:
                        out[row].append(cut_at(self._text_after(kept[row], ids.tolist()), stop))
            for row in dict.fromkeys(rows):
                for sample, text in enumerate(out[row][:samples]):
                    on_text(row * samples + sample, text)
        return [text for texts in out for text in texts[:samples]]

    def logprob(self, prompts: Sequence[str], continuations: Sequence[str]) -> ContinuationScores:
        """Σ log p of each continuation's tokens right after its prompt.

        Args:
          prompts, continuations: pairs, in the same order.
        Returns: nats and numbers of tokens, one per pair.

        Raises: ValueError for a continuation without tokens, or one longer than the model's window.
        """
        texts = self.scored_ids(prompts, continuations)
        sums = np.zeros(len(texts))
        weights = self.lm.weights
        for rows in self._batches([len(text.ids) for text in texts], self.batch_size):
            tokens, mask = _padded([texts[row].ids for row in rows], self.window, self.pad_id, left=False)
            starts = np.asarray([texts[row].start for row in rows], np.int32)
            counts = np.asarray([len(texts[row].ids) for row in rows], np.int32) - starts
            here = jax.device_put((tokens, mask, starts, counts), params.batch_sharding(self.lm.mesh))
            slots = min(few_sizes(int(counts.max())), tokens.shape[1] - 1)
            score = partial(_sums, weights.definition, self.lm.dtype, self.lm.mesh, slots)
            sums[rows] = np.asarray(score(weights.trainable, weights.frozen, *here))
        return ContinuationScores(sums.tolist(), [len(text.ids) - text.start for text in texts])

    def scored_ids(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[ScoredIds]:
        """Each prompt with its continuation as ids within the window; see `logprob` for the errors.

        Args:
          prompts, continuations: pairs, in the same order.
        Returns: ids of both, and where the continuation begins.
        """
        pairs = list(zip(prompts, continuations, strict=True))
        encode = self._texts_as_ids if self.form == "text" else self._answers_as_ids
        found = encode(dict.fromkeys(pairs))
        scored = [self._fitting(found[pair], pair[1]) for pair in pairs]
        self._warn_of_cuts(sum(cut for _, cut in scored), self.window)
        return [text for text, _ in scored]

    @property
    def pad_id(self) -> int:
        """The token that fills up a row."""
        pad = pad_id(self.tokenizer)
        return self._end_id if pad is None else int(pad)

    @property
    def _end_id(self) -> int:
        end: Any = self.tokenizer.eos_token_id  # typed as what any special token may be
        return int(end)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """What ends a response, according to the tokenizer, its chat template or the checkpoint's configs."""
        return frozenset(stop_tokens(self.tokenizer, self.lm.stop_tokens))

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self.form == "instruction":
            return encode_prompt(self.tokenizer, prompt)
        if self.form == "chat":
            asked = {"role": "user", "content": prompt}
            return encode_chat_prompt(self.tokenizer, [*self.before, asked])
        # an empty prompt is what follows the end of another text
        return plain_ids(self.tokenizer, prompt) or [self._end_id]

    def _answers_as_ids(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ScoredIds]:
        """Prompt and continuation, encoded separately and joined; each text is encoded only once."""
        prompt_ids = cache(self._prompt_ids)

        @cache
        def answer_ids(text: str) -> list[int]:
            # a BatchEncoding, whose entries have no types
            encoded: Any = self.tokenizer(tokenizable(text), add_special_tokens=False)
            return encoded["input_ids"]

        found = {}
        for prompt, continuation in pairs:
            before = prompt_ids(prompt)
            after = answer_ids(continuation if self.form == "text" else continuation.lstrip())
            found[prompt, continuation] = ScoredIds([*before, *after], len(before))
        return found

    def _texts_as_ids(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], ScoredIds]:
        """The tokens of each text as a whole, all texts in one call."""
        whole = [pair for pair in pairs if pair[0]]
        found = self._answers_as_ids([pair for pair in pairs if not pair[0]])
        if not whole:
            return found
        encoded: Any = self.tokenizer(  # likewise
            [tokenizable(prompt + continuation) for prompt, continuation in whole],
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        for (prompt, continuation), ids, offsets in zip(
            whole, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            if ids and ids[-1] == self._end_id:
                ids = ids[:-1]
            # a token across the boundary belongs to the continuation; a token needs one before it to be
            # predicted from
            start = next((n for n, (_, end) in enumerate(offsets[: len(ids)]) if end > len(prompt)), len(ids))
            text = ScoredIds([self._end_id, *ids], 1) if start == 0 else ScoredIds(ids, start)
            found[prompt, continuation] = text
        return found

    def _fitting(self, text: ScoredIds, continuation: str) -> tuple[ScoredIds, bool]:
        """The text within the window, and whether its prompt was cut."""
        length = len(text.ids) - text.start
        if not 0 < length < self.window:
            raise ValueError(
                f"a continuation needs 1 to {self.window - 1} tokens; got {length}: {continuation[:60]!r}"
            )
        if len(text.ids) <= self.window:
            return text, False
        prompt = self._cut(text.ids[: text.start], self.window - length)
        return ScoredIds([*prompt, *text.ids[text.start :]], len(prompt)), True

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """The last `room` ids; a leading bos stays, since attention relies on it."""
        if len(ids) <= room:
            return ids
        if room > 1 and ids[0] == self.tokenizer.bos_token_id:
            return [ids[0], *ids[len(ids) - room + 1 :]]
        return ids[len(ids) - room :]

    def _warn_of_cuts(self, count: int, room: int) -> None:
        if count:
            warnings.warn(
                f"{count} prompts are longer than {room} tokens and lose their beginning (fewer examples, or "
                "a larger max_length, keep them whole)",
                stacklevel=3,
            )

    def _shared(self, samples: int) -> tuple[int, int]:
        """How many samples of a prompt share a call, and how many calls that takes; one prompt per device."""
        if samples < 1:
            raise ValueError(f"samples must be at least 1; got {samples}")
        ways = batch_ways(self.lm.mesh)
        together = min(samples, self.batch_size // ways)
        return together, -(-samples // together)

    def _stop_tokens(self, stop: tuple[str, ...]) -> tuple[int, ...]:
        """End tokens, and a few of those that contain a stop string: each costs one comparison per step."""
        shortest = sorted(self._holding(stop), key=lambda n: len(self._token_texts[n]))
        return (*sorted(self._end_ids), *shortest[:STOP_TOKENS])

    def _holding(self, stop: tuple[str, ...]) -> list[int]:
        """Tokens whose own text contains a stop string: a text can end there, since it is cut anyway."""
        texts = self._token_texts if stop else ()
        return [n for n, text in enumerate(texts) if any(s in text for s in stop)]

    @cached_property
    def _token_texts(self) -> list[str]:
        # a special token is not part of an answer's text, whatever it is called
        ids = [[n] for n in range(len(self.tokenizer))]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _batches(self, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
        """Row numbers in batches of equal size, shortest rows first; the last row pads the last batch."""
        order = np.argsort(np.asarray(lengths), kind="stable").tolist()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows + [rows[-1]] * (size - len(rows))

    def _text_after(self, prompt: list[int], new: list[int]) -> str:
        """Text of the new ids up to the end token.

        For the form text, prompt and new ids are decoded together: alone, the first token would lose the
        blank before it, and a line of code its indentation.
        """
        new = list(takewhile(lambda token: token not in self._end_ids, new))
        decode = partial(self.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if self.form != "text":
            return str(decode(new))
        before, whole = str(decode(prompt)), str(decode([*prompt, *new]))
        return whole[len(before) :] if whole.startswith(before) else str(decode(new))


def _padded(
    rows: Sequence[Sequence[int]], limit: int, pad: int, *, left: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [B, T], T a bucket."""
    longest = max(len(row) for row in rows)
    width = max(min(bucket(longest, SHORTEST), limit), longest)
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for place, row in enumerate(rows):
        here = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[place, here] = row
        mask[place, here] = 1
    return tokens, mask


def few_sizes(length: int) -> int:
    """The least of 8, 32, 128, .. that holds a length, so that one compiled shape may serve many lengths."""
    return 8 if length <= 8 else 2 << (2 * math.ceil(math.log(length / 2, 4)))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sums(
    definition: nnx.GraphDef,
    dtype: DTypeLike,
    mesh: Mesh,
    slots: int,
    trainable: params.Params,
    frozen: params.Params,
    tokens_BT: Int[Array, "B T"],
    mask_BT: Int[Array, "B T"],
    start_B: Int[Array, " B"],
    count_B: Int[Array, " B"],
) -> Float[Array, " B"]:
    """Σ log p of `count` tokens from `start` on, each given all before it; the same on every process."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    out = model(tokens_BT, positions_from_mask(mask_BT), AttentionMask(mask_BT, mask_BT), dtype=dtype)
    before_BTD = jnp.pad(out.hidden_BTD[:, :-1], ((0, 0), (1, 0), (0, 0)))
    sums_B = span_sums(before_BTD, model.output_head(dtype), tokens_BT, start_B, count_B, slots)
    return jax.lax.with_sharding_constraint(sums_B, params.replicated(mesh))


def span_sums(
    before_BTD: Float[Array, "B T D"],
    head: Head,
    tokens_BT: Int[Array, "B T"],
    start_B: Int[Array, " B"],
    count_B: Int[Array, " B"],
    slots: int,
) -> Float[Array, " B"]:
    """Σ log p of tokens start .. start + count − 1 (count ≤ slots) from the state before each token.

    Logits are computed only at these positions; they cost as much as a layer or two of a small model.

    Args:
      before_BTD: final hidden state before each token.
      head: output projection.
      tokens_BT: ids.
      start_B: first token that counts.
      count_B: number of tokens that count.
      slots: room for the largest count.
    Returns: in nats.
    """
    place = jnp.arange(slots, dtype=start_B.dtype)[None]
    spans_BC = jnp.minimum(start_B[:, None] + place, tokens_BT.shape[1] - 1)
    states = jnp.take_along_axis(before_BTD, spans_BC[..., None], axis=1)
    scores = losses.token_scores(states, head, jnp.take_along_axis(tokens_BT, spans_BC, axis=1))
    return jnp.where(place < count_B[:, None], scores.logprob_BT, 0.0).sum(axis=1)
