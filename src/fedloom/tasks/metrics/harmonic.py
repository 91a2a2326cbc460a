"""The harmonic mean that weighs what a personalised model does at home against what it does elsewhere."""


def harmonic_mean(*values: float) -> float:
    """n / (1/v_1 + ... + 1/v_n) of values that are not negative; 0 where one of them is 0.

    pFedMMA's HM is that of local, base and novel accuracy within one data set; a table's figure is the mean of its data sets'.
    """
    if min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)
