"""A moving average of the weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """What is evaluated and saved of a model that is trained: PyTorch's exponential moving average
    of its weights; or, where `SOLVER.EMA_DECAY` is 0, the model itself.

    Attributes:
        model: with the average. Its buffers, such as statistics of batch normalization, are those
            of the model that is trained.
    """

    def __init__(self, cfg, model: nn.Module):
        self.trained = model
        self.averaged = None
        self.model = model
        if decay := cfg.SOLVER.EMA_DECAY:
            self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
            self.model = self.averaged.module

    def update(self):
        """Call it after each step of the optimizer."""
        if self.averaged:
            self.averaged.update_parameters(self.trained)
            self._share_normalizer()

    def states(self) -> dict:
        """What a checkpoint says of both, to go on from."""
        if not self.averaged:
            return {}
        return {"model": self.model.state_dict(), "trained_model": self.trained.state_dict()}

    def loaded(self, checkpoint: dict, resumes: bool):
        """Call it when weights have been loaded into the model that is trained.

        Args:
            checkpoint: what else was loaded. It is used, and taken out, by a run that `resumes`;
                others start from the average, if the weights are one.
        """
        if not self.averaged:
            return
        self.model.load_state_dict(self.trained.state_dict())
        if resumes and "trained_model" in checkpoint:
            self.trained.load_state_dict(checkpoint.pop("trained_model"))
            self.averaged.n_averaged.fill_(1)  # at 0, the next update would start afresh
        self._share_normalizer()

    def _share_normalizer(self):
        if "loss_normalizer" in vars(self.trained):  # of dense detectors: no part of the weights
            self.model.loss_normalizer = self.trained.loss_normalizer
