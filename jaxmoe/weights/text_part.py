"""The tensors of the text part in checkpoints that hold more than a language model."""

import logging
from collections.abc import Mapping

from jaxmoe.families.text_part import TEXT_PARTS
from jaxmoe.weights.weight_files import StoredTensor

log = logging.getLogger(__name__)

# prefixes of the text part's names, in released files and in those of transformers 5
PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}


def text_tensors(
    stored: Mapping[str, StoredTensor], json_config: Mapping[str, object], where: object
) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint's text part, by a language model's names; what is left out is logged.

    Args:
      stored: all tensors by name; none is read.
      json_config: the object in config.json.
      where: the folder, for the log.
    Returns: a new dictionary.
    """
    if json_config.get("model_type") not in TEXT_PARTS:
        return dict(stored)
    named = {name: next((p for p in PREFIXES if name.startswith(p)), None) for name in stored}
    text = {
        PREFIXES[prefix] + name.removeprefix(prefix): stored[name] for name, prefix in named.items() if prefix
    }
    log.warning(
        "%s: the text part alone is read, %d tensors of its image encoder are left out",
        where,
        len(stored) - len(text),
    )
    return text
