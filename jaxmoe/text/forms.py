"""The form in which a prompt is put to a model.

    text         the prompt is the beginning of a text, which the model continues
    instruction  the prompt, then the end-of-sequence token (the LoRAMoE form)
    chat         the prompt is a user's message in the tokenizer's chat template
    auto         chat if the tokenizer has a chat template, else instruction

A model that was tuned with its own chat template hardly knows the LoRAMoE form: to SmolLM2-135M-Instruct
the first token of an answer is 20.1 nats there, and 4.4 in its own form.
"""

from typing import TYPE_CHECKING, Literal, get_args

from jaxmoe.text.chat_template import has_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Form = Literal["auto", "text", "instruction", "chat"]


def resolve_form(tokenizer: "PreTrainedTokenizerBase", form: str, otherwise: str = "instruction") -> str:
    """The form that `auto` stands for; every other form stays as it is.

    Args:
      tokenizer: of the model that is asked or trained.
      form: auto, or a form that the caller knows (text, instruction, chat, or completion for programs).
      otherwise: what auto means if the tokenizer has no chat template.
    Returns: chat or `otherwise` for auto, else `form`.
    Raises: ValueError for chat without a chat template.

    >>> from jaxmoe.tokenizer import train_bpe
    >>> tokenizer = train_bpe(["to be or not to be"], 300)
    >>> resolve_form(tokenizer, "auto")
    'chat'
    >>> tokenizer.chat_template = None
    >>> resolve_form(tokenizer, "auto"), resolve_form(tokenizer, "auto", otherwise="completion")
    ('instruction', 'completion')
    """
    if form == "auto":
        return "chat" if has_chat_template(tokenizer) else otherwise
    if form == "chat" and not has_chat_template(tokenizer):
        others = [name for name in get_args(Form) if name != "chat"]
        raise ValueError(
            "form chat needs a chat template, and the tokenizer has none: put chat_template.jinja into its "
            f"folder, or take another form ({', '.join(others)})"
        )
    return form
