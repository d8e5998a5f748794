"""Keeps an exponential moving average (EMA) of the weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA:
    """Holds the model that is evaluated and saved beside the one that is trained.

    Args:
        model: that is trained.
        decay: per iteration, such as 0.999; 0: no EMA, both models are the same.

    Attributes:
        model: with the averaged weights. Its buffers, such as statistics of batch normalization,
            are those of the model that is trained.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.trained = model
        self.averaged = None
        self.model = model
        if decay:
            self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
            self.model = self.averaged.module

    def update(self):
        """Averages the weights; to be called after each step of the optimizer."""
        if self.averaged:
            self.averaged.update_parameters(self.trained)
            self._share_normalizer()

    def states(self) -> dict:
        """Returns what a checkpoint needs of both models, to go on from."""
        if not self.averaged:
            return {}
        return {"model": self.model.state_dict(), "trained_model": self.trained.state_dict()}

    def after_load(self, checkpoint: dict, resumes: bool):
        """Restores the average after weights have been loaded into the model that is trained.

        Args:
            checkpoint: what else was loaded; a run that resumes takes `trained_model` out of it. A
                new run starts from the average, if the weights are one.
        """
        is_average = resumes and "trained_model" in checkpoint
        if self.averaged:
            self.model.load_state_dict(self.trained.state_dict())
            if is_average:
                self.averaged.n_averaged.fill_(1)  # at 0, the next update would start afresh
        if is_average:  # also where a run goes on without EMA
            self.trained.load_state_dict(checkpoint.pop("trained_model"))
        if self.averaged:
            self._share_normalizer()

    def _share_normalizer(self):
        if "loss_normalizer" in vars(self.trained):  # of dense detectors: no part of the weights
            self.model.loss_normalizer = self.trained.loss_normalizer
