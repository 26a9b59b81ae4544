"""The one error that people see: a sentence that says what is wrong and what to do about it."""


class ClusterError(Exception):
    """Printed as it is, without a traceback."""
