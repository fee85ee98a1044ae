"""Exceptions of the library that are not plain ``ValueError`` or ``TypeError``."""


class BackendUnavailable(RuntimeError):
    """Raised when the implementation asked for cannot run here; the message says why."""
