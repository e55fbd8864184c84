"""What a run leaves when it is over: an export that other programs load, and plots."""

from typing import TYPE_CHECKING

import jaxmoe
from jaxmoe.export import Format
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.config import EXPERT_BLOCK
from jaxmoe.progress import say
from training.runtime import distributed
from training.runtime.model import AdapterKind
from training.runtime.run_folder import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# the format in which what was trained is exported
FORMATS: dict[AdapterKind, Format] = {"loramoe": "loramoe", "lora": "peft", "none": "hf"}


def finish(
    done: Finished, tokenizer: "PreTrainedTokenizerBase", format: Format | None, *, plots: bool
) -> None:
    """Exports a finished run to OUTPUT/export and draws its plots.

    Args:
      format: of the export; None writes none. LoRA on a block of experts is written as loramoe, not peft.
      plots: draw the run's curves into OUTPUT/plots.
    """
    if format == "peft" and _beside_block(done.lm):
        format = "loramoe"
        if distributed.is_main():
            say("export: in the format loramoe, since peft has none for LoRA beside a block of experts")
    if format is not None:
        jaxmoe.save(done.lm, done.folder / "export", format, tokenizer=tokenizer)
    if plots and distributed.is_main():
        from training.plots.plot_run import plot_run

        plot_run(done.folder)


def _beside_block(lm: LanguageModel) -> bool:
    if lm.experts is None or EXPERT_BLOCK not in lm.config.projections:
        return False
    return any(lm.experts.layers_with(EXPERT_BLOCK, lm.config.num_layers))
