"""Looks through the config of a run, which may come from elsewhere, before it is read."""

# What a lazy config of a run may call; by the start of its name.
CALLED = ("detectron2.", "d2_starter.", "torch.nn.", "torch.optim.", "torchvision.ops.", "timm.")
CALLED += ("fvcore.common.param_scheduler.", "fvcore.nn.")
NOT_CALLED = ("detectron2.utils.", "detectron2.engine.", "detectron2.config.")


class RefusedConfigError(ValueError):
    """The config would run code."""


def check_config(text: str, where: str, package: str = ""):
    """Checks that a run's config.yaml is data: what was written down, and nothing that is called.

    Args:
        where: the file, for messages.
        package: of the project; its classes may be called.

    Raises:
        RefusedConfigError: it has tags of Python, or calls functions that models are not made of.
        ValueError: it is no YAML.
    """
    import yaml  # the hooks, which import this package, do not have it

    try:
        content = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        raise RefusedConfigError(
            f"the config '{where}' is refused: to read it is to run code ({error.problem})."
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"the config '{where}' is no YAML: {error}") from None
    for name in _targets(content):
        is_known = name.startswith(CALLED) and not name.startswith(NOT_CALLED)
        if not (is_known or (package and name.startswith(f"{package}."))):
            raise RefusedConfigError(
                f"the config '{where}' is refused: it calls {name}, which is no part of a model, "
                "of its data or of its optimizer. If you trust who made it, say --trust."
            )


def _targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
