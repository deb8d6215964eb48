"""The command line: one module per command, shared options in `options`."""

import os

# numpy's BLAS starts a thread for every core, and they spin while the program is still loading.
# Nothing here multiplies large matrices with it: that is the engine's work, in threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
