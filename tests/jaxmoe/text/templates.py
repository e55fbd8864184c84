"""Chat templates in the public formats of a dozen model families, each with a tiny tokenizer that has its
tokens.

The templates are written for these tests: they lay a conversation out as the families do, with their traps
(thinking that is dropped from earlier answers, a system prompt that moves to the last question, a line break
before the end of a turn).
"""

from functools import cache
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


class Family(NamedTuple):
    """A chat format.

    Attributes:
      template: Jinja.
      special: special tokens, the end of sequence first.
      added: added tokens that are not special.
      ends: the token that ends a turn.
      system: whether the template takes a system turn.
      tools: whether it takes tool calls and tool turns.
      answer: how an answer stands in the rendered text, from the generation prompt to the end of turn.
      middle: the same for an answer that another turn follows, where that differs.
    """

    template: str
    special: tuple[str, ...]
    ends: str
    answer: str
    added: tuple[str, ...] = ()
    system: bool = True
    tools: bool = False
    middle: str | None = None


def _chatml(default_system: str = "", tools: str = "") -> str:
    return (
        "{%- if messages[0].role != 'system' %}" + default_system + "{%- endif %}"
        "{%- for m in messages %}"
        + tools
        + "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        + ("{%- endif %}" if tools else "")
        + "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )


_CALLS = (
    "{%- for c in m.tool_calls or [] %}"
    "{%- if (loop.first and m.content) or not loop.first %}{{- '\\n' }}{%- endif %}"
    '{{- \'<tool_call>\\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{- c.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}"
)
_TOOL_TURNS = (
    "{%- if m.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' and m.tool_calls %}"
    "{{- '<|im_start|>assistant\\n' + (m.content or '') }}" + _CALLS + "{{- '<|im_end|>\\n' }}"
    "{%- else %}"
)
_QWEN3 = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content or '' %}"
    "{%- if m.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}{%- set thought = '' %}"
    "{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}"
    "{%- elif '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{%- else %}{{- content }}{%- endif %}" + _CALLS + "{{- '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
_MISTRAL = (
    "{%- if messages[0].role == 'system' %}"
    "{%- set system = messages[0].content %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}"
    "{%- set ns = namespace(turn=0) %}"
    "{%- for m in turns %}{%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}"
    "{%- if (m.role == 'user') != (ns.turn % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- endif %}"
    "{%- set ns.turn = ns.turn + 1 %}{%- endif %}{%- endfor %}"
    "{{- bos_token }}"
    "{%- for m in turns %}"
    "{%- if m.role == 'user' %}"
    "{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.role == 'assistant' and m.tool_calls %}"
    '{{- \'[TOOL_CALLS] [{"name": "\' + m.tool_calls[0].function.name + \'", "arguments": \' }}'
    "{{- m.tool_calls[0].function.arguments | tojson }}{{- '}]' + eos_token }}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}"
    "{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
    "{%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}{%- endif %}"
    "{%- endfor %}"
)
_COMMAND = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{% if m.role == 'system' %}<|SYSTEM_TOKEN|>{{ m.content }}"
    "{% elif m.role == 'user' %}<|USER_TOKEN|>{{ m.content.strip() }}"
    "{% else %}<|CHATBOT_TOKEN|>{{ m.content.strip() }}{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
_VICUNA = (
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}{{ messages[0].content + ' ' }}"
    "{% else %}{% set turns = messages %}{{ 'A chat between a curious user and an assistant. ' }}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_DEEPSEEK_CODER = (
    "{{ bos_token }}"
    "{%- if messages[0].role != 'system' %}{{- 'You are an AI programming assistant.\\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content + '\\n' }}"
    "{%- elif m.role == 'user' %}{{- '### Instruction:\\n' + m.content + '\\n' }}"
    "{%- else %}{{- '### Response:\\n' + m.content + '\\n<|EOT|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Response:' }}{%- endif %}"
)
_ALPACA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}"
    "{% elif m.role == 'user' %}{{ '### Instruction:\\n' + m.content + '\\n\\n### Response:\\n' }}"
    "{% else %}{{ m.content }}{% if loop.last %}{{ eos_token }}{% else %}{{ '\\n\\n' }}{% endif %}{% endif %}"
    "{% endfor %}"
)
_LLAMA3 = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end_header_id|>\\n\\n' }}"
    "{%- if m.tool_calls %}"
    '{{- \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
    "{{- m.tool_calls[0].function.arguments | tojson }}{{- '}' }}"
    "{%- else %}{{- m.content | trim }}{%- endif %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
_GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
FAMILIES = {
    "llama3": Family(
        _LLAMA3,
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "{}<|eot_id|>",
        tools=True,
    ),
    "qwen2.5": Family(
        _chatml("{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}", _TOOL_TURNS),
        _IM,
        "<|im_end|>",
        "{}<|im_end|>",
        added=_TOOL_TOKENS,
        tools=True,
    ),
    "qwen3": Family(
        _QWEN3,
        _IM,
        "<|im_end|>",
        "<think>\n\n</think>\n\n{}<|im_end|>",
        added=(*_TOOL_TOKENS, "<think>", "</think>"),
        tools=True,
        middle="{}<|im_end|>",
    ),
    "gemma": Family(
        _GEMMA,
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "{}<end_of_turn>",
        system=False,
    ),
    "mistral": Family(_MISTRAL, ("</s>", "<s>", "[INST]", "[/INST]"), "</s>", " {}</s>", tools=True),
    "phi3": Family(
        _PHI3,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        "{}<|end|>",
    ),
    "command": Family(
        _COMMAND,
        (
            "<EOS_TOKEN>",
            "<BOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        "{}<|END_OF_TURN_TOKEN|>",
    ),
    "zephyr": Family(_ZEPHYR, ("</s>", "<s>"), "</s>", "{}</s>"),
    "vicuna": Family(_VICUNA, ("</s>", "<s>"), "</s>", " {}</s>"),
    "deepseek-coder": Family(
        _DEEPSEEK_CODER,
        ("<|end_of_sentence|>", "<|begin_of_sentence|>", "<|EOT|>"),
        "<|EOT|>",
        "\n{}\n<|EOT|>",
    ),
    "smollm2": Family(
        _chatml("{{- '<|im_start|>system\\nYou are a helpful AI assistant.<|im_end|>\\n' }}"),
        _IM,
        "<|im_end|>",
        "{}<|im_end|>",
    ),
    "alpaca": Family(_ALPACA, ("</s>", "<s>"), "</s>", "{}</s>", middle="{}"),
}
WORDS = "user assistant system hello what is two plus two it is four answer think tool name arguments"


@cache
def tokenizer_for(family: str, template: str | None = "") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the family's tokens; `template` replaces its own ("" keeps it)."""
    form = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(form.special), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([WORDS] * 4, trainer)
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in form.added])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=form.special[0],
        bos_token=form.special[1],
        pad_token=form.special[0],
        additional_special_tokens=list(form.special[2:]),
        chat_template=form.template if template == "" else template,
    )
