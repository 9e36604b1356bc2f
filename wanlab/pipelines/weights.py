"""What is wrong with weights."""


class WeightsError(RuntimeError):
    """Weights that are missing, damaged, or made for another configuration."""
