"""The config of the text part in checkpoints that hold more than a language model."""

from collections.abc import Mapping

from jaxmoe.json_values import is_object, shown

# model_type of the whole -> that of its text part
TEXT_PARTS = {"gemma3": "gemma3_text"}
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def text_config(json_config: Mapping[str, object], where: object) -> dict[str, object]:
    """The config of a checkpoint's text part; a language model's config unchanged.

    Args:
      json_config: the object in config.json.
      where: the file's name, for the error message.
    Returns: a new dictionary.
    Raises: ValueError if `text_config` is missing or not an object.
    """
    kind = json_config.get("model_type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        return dict(json_config)
    text = json_config.get("text_config")
    if not is_object(text):
        raise ValueError(f"{where}: text_config of a {kind} must be an object; got {shown(text)}")
    # special tokens and tying may be given for the whole
    outer = {k: json_config[k] for k in (*ENDS, "tie_word_embeddings") if json_config.get(k) is not None}
    return {**outer, **text, "model_type": TEXT_PARTS[kind]}
