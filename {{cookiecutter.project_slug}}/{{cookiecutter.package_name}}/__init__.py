def Predictor(run, **options):
    """Opens the model of a run directory, or of a file made by tools/pack.py.

    Options are those of `d2_starter.predict.Predictor`, such as `threshold`, `device` and `tiles`.
    """
    from d2_starter.predict import Predictor as Library  # now: it imports PyTorch

    from .experiment import load_experiment

    return Library(run, load_experiment, **options)
