"""Text to token ids, and which of those tokens the loss is to predict.

Four forms of a training row are encoded here: plain text (every token is a target), a prompt with its
completion (which is the target), a LoRAMoE instruction row (the output is the target) and a list of chat
messages (what the assistant said is the target). Tokenizers are always Hugging Face fast tokenizers, so that
a checkpoint brings its own; `train_bpe` makes the small byte-level one of the embedded base model.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxmoe.base_folder import hub_folder, is_gguf, is_hub_id, local_folder
from jaxmoe.json_values import JsonMapping
from jaxmoe.text.answer_spans import Turns, answer_spans
from jaxmoe.text.chat_template import Messages, Tools, chat_template
from jaxmoe.text.decoding import decode
from jaxmoe.text.thinking import Thinking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"
ROLES = ("system", "user", "assistant")
# the assistant's end of turn is a target too: without it the model never learns to stop
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


class Encoded(NamedTuple):
    """One encoded row.

    Attributes:
      ids: int32 [T].
      loss_mask: float32 [T], 1 where the token at that very position is to be predicted; 0 at position 0,
        which has no predecessor.
      cut: tokens that the row lost to the length it had to fit.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    cut: int = 0


def train_bpe(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE with end-of-sequence, padding and role tokens, and a chat template.

    A space is put before every text, so that a word has the same tokens at the start of an answer as in the
    middle of a sentence: what was learned of " Paris" then also applies where only "Paris" is asked for.

    Args:
      texts: the training text, one document per item.
      vocab_size: number of ids, special tokens and the 256 bytes included.
    Returns: the tokenizer, which pads on the left.
    Raises: ValueError if the vocabulary cannot hold the bytes and special tokens, or there is no text.
    """
    special = [PAD, EOS, *(f"<|{role}|>" for role in ROLES)]
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest} (256 bytes, {len(special)} special tokens); "
            f"got {vocab_size}"
        )
    first = next(iterator := iter(texts), None)
    if first is None:
        raise ValueError("training a tokenizer needs at least one text; got none")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def documents():
        yield tokenizable(first)
        yield from map(tokenizable, iterator)

    core.train_from_iterator(documents(), trainer)
    from transformers import PreTrainedTokenizerFast  # takes seconds, and imports torch if it is installed

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a folder, hub id, GGUF file or named model; if it has no pad token, eos pads.

    Raises: ValueError if there is no tokenizer there, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    if is_gguf(path):
        path = local_folder(path)
    try:
        hub = is_hub_id(path) and not Path(path).exists()
        folder = hub_folder(str(path), weights=False) if hub else path  # all files of one commit
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others here
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"no tokenizer could be loaded from {path} (a folder with tokenizer.json, or a hub id): {reason}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no eos_token; set one in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", path: str | Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template into a folder.

    Args:
      path: of the folder, created if missing; its files of these names are replaced.
    """
    tokenizer.save_pretrained(str(path))


def plain_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of a text that starts a sequence: with the tokenizer's own bos if it has one, never an eos.

    Args:
      tokenizer: it may add a bos or an eos of its own accord.
      text: lone surrogates in it are replaced.
    Returns: the ids, not cut to any length.
    """
    ids = _ids(tokenizer, text)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> Encoded:
    """Encode a document for pretraining: text + eos, every token but the first a target.

    Args:
      tokenizer: with an end-of-sequence token.
      text: one document.
    Returns: ids [T] and a mask that is 1 everywhere except at position 0.
    """
    ids = np.asarray([*plain_ids(tokenizer, text), tokenizer.eos_token_id], np.int32)
    return _targets(ids, np.ones(len(ids), np.float32))


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", instruction: str, extra_input: str = "") -> list[int]:
    """Prompt of the LoRAMoE format: `instruction["\\n" + input]`, then the end-of-sequence token.

    The original separates prompt and answer by `</s>`, which is Llama's end of sequence; other tokenizers use
    their own.

    Args:
      tokenizer: with an end-of-sequence token.
      instruction: what is asked.
      extra_input: what the question is about; "" if there is none.
    Returns: the ids after which the answer begins.
    """
    return [*plain_ids(tokenizer, instruction_text(instruction, extra_input)), _eos(tokenizer)]


def encode_instruction(
    tokenizer: "PreTrainedTokenizerBase",
    instruction: str,
    extra_input: str,
    output: str,
    max_length: int | None = None,
) -> Encoded:
    """Encode a LoRAMoE row: prompt + eos + output + eos; output and last eos are the targets.

    If the row is longer than `max_length`, the prompt is cut first, from its start (the question is at its
    end), then the output from its end.

    Args:
      tokenizer: with an end-of-sequence token.
      instruction: what is asked.
      extra_input: what the question is about; "" if there is none.
      output: the answer to learn.
      max_length: tokens that the result may have; None for any number.
    Returns: ids [T], mask [T], and the number of tokens that were cut.
    Raises: ValueError if max_length leaves no room for a token of prompt and one of output.
    """
    prompt = encode_prompt(tokenizer, instruction, extra_input)
    target = [*_ids(tokenizer, output, add_special_tokens=False), _eos(tokenizer)]
    return _asked_and_answered(tokenizer, prompt, target, max_length)


def encode_completion(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, completion: str, max_length: int | None = None
) -> Encoded:
    """Encode a text that begins with a prompt: prompt + completion + eos; completion and eos are the targets.

    Both are encoded as one text, so that its tokens are those of the text; a token that spans the end of the
    prompt and the start of the completion is a target. A row that is too long is cut as in
    `encode_instruction`.

    Args:
      tokenizer: a fast one, with an end-of-sequence token.
      prompt: how the text begins; "" makes all of it a target.
      completion: how it continues, blanks at its start included.
      max_length: tokens that the result may have; None for any number.
    Returns: ids [T], mask [T], and the number of tokens that were cut.
    Raises: ValueError if max_length leaves no room for a token of prompt and one of completion.
    """
    encoded = tokenizer(tokenizable(prompt + completion), return_offsets_mapping=True)
    ids = cast("list[int]", encoded["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    ends = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2)[: len(ids), 1]
    # a bos ends at 0, and so is not after the prompt
    start = int(np.argmax(ends > len(prompt))) if (ends > len(prompt)).any() else len(ids)
    return _asked_and_answered(tokenizer, ids[:start], [*ids[start:], _eos(tokenizer)], max_length)


def _asked_and_answered(
    tokenizer: "PreTrainedTokenizerBase", prompt: list[int], target: list[int], max_length: int | None
) -> Encoded:
    """One row; if it is too long, the prompt loses its start, then the target its end."""
    whole = len(prompt) + len(target)
    if max_length is not None:
        if max_length < 2:
            raise ValueError(
                f"max_length must be at least 2 (one prompt token, one target); got {max_length}"
            )
        target = target[: max_length - 1]
        kept = max_length - len(target)
        if len(prompt) > kept:
            # a leading bos stays: attention relies on it
            bos = prompt[:1] if prompt[0] == tokenizer.bos_token_id and kept > 1 else []
            prompt = [*bos, *prompt[len(prompt) - kept + len(bos) :]]
    mask = np.zeros(len(prompt) + len(target), np.float32)
    mask[len(prompt) :] = 1.0
    return _targets(np.asarray(prompt + target, np.int32), mask, whole - len(mask))


def encode_chat_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Messages,
    *,
    thinking: Thinking = "template",
    tools: Tools = None,
) -> list[int]:
    """Ids of a conversation up to where the assistant is to speak, by the tokenizer's chat template.

    Args:
      messages: dicts with role and content, and whatever else the template reads.
      thinking: with drop, the template is asked for an answer without thinking.
      tools: JSON schemas of functions that the model may call.
    Returns: the ids, with no bos or eos except the template's own.
    Raises: ValueError if there is no chat template, or it refuses the conversation.
    """
    text = chat_template(tokenizer, thinking).render(messages, tools, answering=True)
    return _ids(tokenizer, text, add_special_tokens=False)


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Messages,
    *,
    thinking: Thinking = "template",
    tools: Tools = None,
    turns: Turns = "all",
) -> Encoded:
    """Encode a conversation by the tokenizer's chat template; what the assistant said is the target.

    A turn's targets are the tokens from the end of the generation prompt to the end of the turn, whatever
    they are (jaxmoe.text.answer_spans). If the template marks what is to be learned with `{% generation %}`,
    the targets are that and the end of the turn, which many such blocks leave out.

    Args:
      messages: dicts with role and content, and whatever else the template reads; an answer with weight 0 is
        not learned.
      thinking: what becomes of the assistant's thinking (jaxmoe.text.thinking).
      tools: JSON schemas of functions that the model may call.
      turns: which of the assistant's turns are learned: all, or only the last.
    Returns: ids, and 1 for each token that the assistant says.
    Raises: ValueError if there is no chat template, no assistant message, the template refuses the
      conversation, or the assistant's turns cannot be located in the rendered text.
    """
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("a chat row needs at least one assistant message; got none, so nothing to learn")
    template = chat_template(tokenizer, thinking)
    rendered = answer_spans(template, messages, tools)
    encoded = tokenizer(tokenizable(rendered.text), add_special_tokens=False, return_offsets_mapping=True)
    begins, ends = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2).T
    mask = np.zeros(len(begins), bool)
    spans = rendered.spans[-1:] if turns == "last" else rendered.spans
    learned = [span for span in spans if messages[span.turn].get("weight", 1) != 0]
    for span in learned:
        # a token across the start belongs to the answer; one across the end would reveal what comes next
        mask |= (ends > span.start) & (ends <= span.stop) & (ends > begins)
    marked = template.marked(messages, tools)
    if marked is not None:
        mask &= _marked_and_end(
            np.asarray(marked, bool), [span.stop for span in rendered.spans], begins, ends
        )
    if learned and not mask.any():
        raise ValueError("the chat template renders nothing that the assistant says, so nothing to learn")
    return _targets(np.asarray(encoded["input_ids"], np.int32), mask.astype(np.float32))


def encode_row(
    tokenizer: "PreTrainedTokenizerBase",
    row: JsonMapping,
    max_length: int | None,
    *,
    form: str = "instruction",
    thinking: Thinking = "template",
    turns: Turns = "all",
) -> Encoded:
    """Encode a row by the keys it has: `messages`, `instruction`, `completion` or `text`.

    Text and chats longer than `max_length` lose their end; for instructions and completions see
    `encode_instruction`.

    Args:
      row: messages (and tools), or instruction, input and output, or prompt and completion, or text.
      max_length: tokens that the result may have; None for any number.
      form: of instruction rows: chat formats them by the chat template, instruction in the LoRAMoE form.
      thinking: what becomes of an assistant's thinking (jaxmoe.text.thinking).
      turns: which turns of a chat are learned: all of the assistant's, or only the last.
    Returns: ids [T], mask [T], and the number of tokens that were cut.
    Raises: ValueError if the row has none of these keys, and as `encode_chat` does.
    """
    if "messages" in row:
        tools = row.get("tools")
        encoded = encode_chat(tokenizer, row["messages"], thinking=thinking, tools=tools, turns=turns)
    elif "instruction" in row:
        if form != "chat":
            return encode_instruction(
                tokenizer, row["instruction"], row.get("input", ""), row["output"], max_length
            )
        asked = instruction_text(row["instruction"], row.get("input", ""))
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        encoded = encode_chat(tokenizer, said, thinking=thinking)
    elif "completion" in row and "prompt" in row:
        return encode_completion(tokenizer, row["prompt"], row["completion"], max_length)
    elif "text" in row:
        encoded = encode_text(tokenizer, row["text"])
    else:
        known = "messages, instruction, completion (with prompt), text"
        raise ValueError(f"a row needs one of the keys {known}; got {sorted(row)}")
    if max_length is None or len(encoded.ids) <= max_length:
        return encoded
    cut = len(encoded.ids) - max_length
    return Encoded(encoded.ids[:max_length], encoded.loss_mask[:max_length], cut)


def instruction_text(instruction: str, extra_input: str = "") -> str:
    """The question: `instruction["\\n" + input]`.

    Args:
      instruction: what is asked.
      extra_input: what the question is about; "" adds nothing.
    Returns: the text of a user's turn, or of a prompt before its end token.
    """
    return f"{instruction}\n{extra_input}" if extra_input else instruction


def decode_answer(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int] | np.ndarray, ends: Sequence[int] | None = None
) -> str:
    """Text of generated ids up to the first end token, with its blanks as they are.

    Args:
      tokenizer: the one that the model was given.
      ids: [T], generated, the prompt left out.
      ends: see `jaxmoe.text.stop_tokens`; None takes the tokenizer's end of sequence.
    Returns: the text, without special tokens.
    """
    over = {_eos(tokenizer)} if ends is None else {*ends}
    ids = list(takewhile(lambda token: token not in over, (int(i) for i in ids)))
    return decode(tokenizer, ids)


def _targets(ids: np.ndarray, mask: np.ndarray, cut: int = 0) -> Encoded:
    mask[:1] = 0.0
    return Encoded(ids, mask, cut)


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that pads rows; `load_tokenizer` ensures that there is one."""
    return cast("int", tokenizer.pad_token_id)  # annotated more widely than it is


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    return cast("int", tokenizer.eos_token_id)


def _marked_and_end(marked: np.ndarray, stops: list[int], begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """What a template marks with `{% generation %}`, and what follows it up to the end of each turn."""
    if not marked.any() or marked.all():
        raise ValueError(
            f"the chat template marks {'every token' if marked.any() else 'no token'} as the assistant's; "
            "its {% generation %} block must hold the assistant's content and nothing else"
        )
    mask, floor = marked.copy(), 0
    for stop in stops:
        turn = (begins >= floor) & (ends <= stop)
        last = np.flatnonzero(marked & turn)
        if len(last):
            mask[last[-1] :] |= turn[last[-1] :]
        floor = stop
    return mask


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, *, add_special_tokens: bool = True) -> list[int]:
    encoded = tokenizer(tokenizable(text), add_special_tokens=add_special_tokens)
    return cast("list[int]", encoded["input_ids"])


def tokenizable(text: str) -> str:
    """The text with the replacement character for lone surrogates: JSON can hold them, tokenizers cannot."""
    return _SURROGATES.sub("\ufffd", text)
