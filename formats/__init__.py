"""Model files: reading GGUF and safetensors, writing GGUF, converting between them.

Every error that a file's content causes is a `FormatError`. Nothing here imports the rest of
pymixtral or its C engine.
"""

from .errors import FormatError
from .gguf import GGUFFile, TensorInfo, ValueType, open_gguf
from .hparams import HParams, read_hparams
from .names import TensorRole
from .vocabulary import TokenType, Vocabulary, read_vocabulary

__all__ = [
    "FormatError",
    "GGUFFile",
    "HParams",
    "TensorInfo",
    "TensorRole",
    "TokenType",
    "ValueType",
    "Vocabulary",
    "open_gguf",
    "read_hparams",
    "read_vocabulary",
]
