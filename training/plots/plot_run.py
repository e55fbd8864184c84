"""Plots of a run folder: loss curves from metrics.jsonl, expert use from routing.jsonl.

python -m training plot RUN
"""

from collections.abc import Sequence
from pathlib import Path

from jaxmoe.json_values import JsonObject
from training.plots.figures import loss_figure, routing_figure, save_figure, share_figure
from training.plots.ppo import learning_figure, verdict_figure
from training.runtime.metrics import read_lines


def plot_run(folder: Path) -> list[Path]:
    """Draws every plot the folder has data for into folder/plots; returns the files.

    Raises: ValueError if there is nothing to draw.
    """
    metrics = read_lines(folder / "metrics.jsonl")
    routing = read_lines(folder / "routing.jsonl")
    if not metrics:
        raise ValueError(f"{folder} has no metrics.jsonl with records: give the output folder of a run")
    out = folder / "plots"
    out.mkdir(exist_ok=True)
    if any("reward" in record for record in metrics):
        return _plot_rounds(metrics, folder.name, out)
    made = [save_figure(loss_figure(metrics, folder.name), out / "loss.png")]
    if routing:
        made.append(save_figure(share_figure(routing[-1], folder.name), out / "expert_share.png"))
        made.append(save_figure(routing_figure(routing, folder.name), out / "routing.png"))
    return made


def _plot_rounds(metrics: Sequence[JsonObject], title: str, out: Path) -> list[Path]:
    return [
        save_figure(learning_figure(metrics, title), out / "learning.png"),
        save_figure(verdict_figure(metrics, title), out / "verdicts.png"),
    ]
