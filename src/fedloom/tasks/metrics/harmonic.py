"""Harmonic mean of a personalised model's local, base and novel accuracy."""


def harmonic_mean(*values: float) -> float:
    """n / (1/v_1 + ... + 1/v_n) of non-negative values; 0 if one of them is 0.

    pFedMMA's HM is over local, base and novel accuracy of one data set; a table's figure is the mean over its data sets.
    """
    if min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)
