"""Says at the end of a run what it came to, and where everything is."""

import logging
import shlex
from pathlib import Path

from detectron2.utils import comm
from torch import nn

from ..config.experiment import Experiment
from ..evaluation.evaluate import summary
from ..files.run_directory import BEST, RunDirectory
from ..run.checkpoint import read_best

logger = logging.getLogger(__name__)


def finish(experiment: Experiment, model: nn.Module, metrics: dict[str, float]):
    """Draws pictures of predictions, writes the report, and logs what a run came to.

    Args:
        model: that was evaluated.
        metrics: of the last evaluation.
    """
    if not comm.is_main_process():
        return
    output = Path(experiment.output_dir)
    quoted = shlex.quote(str(output))
    lines = [
        f"{key:20} {value:.{4 if 'loss' in key else 2}f}" for key, value in summary(metrics).items()
    ]
    for what, path in (
        ("checkpoint", RunDirectory(output).last_checkpoint()),
        ("metrics", output / "metrics.json"),
        ("log", output / "log.txt"),
    ):
        if path and path.exists():
            lines.append(f"{what:20} {path}")
    if best := read_best(output):
        what = f"{best['metric']} {best['value']:.2f} at iteration {best['iteration']}"
        lines.append(f"{'best checkpoint':20} {output / BEST} ({what})")
    if not experiment.eval_in_loop:
        lines.append(f"{'evaluation':20} uv run tools/evaluate_checkpoints.py {quoted}")
    if experiment.num_pictures and experiment.test_names:
        from ..pictures.predictions import save_pictures  # matplotlib is slow to import

        save_pictures(experiment, model, str(output / "predictions"))
        lines.append(f"{'pictures':20} {output / 'predictions'}")
    if experiment.report and metrics and experiment.test_names:
        from .page import write_report

        try:
            lines.append(f"{'report':20} {write_report(output)}")
        except FileNotFoundError as error:  # evaluators of one's own
            logger.info("No report was written: %s", error)
        except Exception:  # the training is over and saved: a page cannot make it fail
            logger.exception("No report was written. tools/report.py writes one later.")
    lines.append(f"{'curves':20} uv run tensorboard --logdir {quoted}")
    logger.info("Done.\n  %s", "\n  ".join(lines))
