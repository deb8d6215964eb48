"""Everything that pymixtral raises on purpose.

`except PymixtralError` catches all of it but a malformed file, which is
`pymixtral.formats.FormatError` because `formats` stands on its own.
"""


class PymixtralError(Exception):
    """Base of the exceptions below. The message is one line and says what to do."""


class ModelLoadError(PymixtralError):
    """The file is well formed, but is not a model that pymixtral can run."""


class InsufficientMemoryError(PymixtralError):
    """The model does not fit the memory that is available, or an allocation failed."""


class ContextError(PymixtralError):
    """The prompt is longer than the context; the message gives both numbers."""


class ChatError(PymixtralError):
    """The messages are no conversation that the model's chat template can express."""


class ParameterError(PymixtralError, ValueError):
    """An argument is outside its range; the message names it and the range."""


class SamplingError(PymixtralError):
    """The logits leave no token to choose: a NaN, an infinity, or only -inf."""


class EngineError(PymixtralError):
    """The C engine reported a failure of this request."""


class EvalCancelled(PymixtralError):
    """The evaluation was stopped by its cancel flag, between two layers."""


class ClosedError(PymixtralError):
    """The object was used after `close()`."""


class ForkedError(PymixtralError):
    """The object was created before a fork and used in the child; load the model there instead."""
