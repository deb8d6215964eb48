import os
import signal

# BLAS threads spin while they wait. Where cores are few or busy, the oracle's many small products
# then take ten times as long. This must come before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell has what it starts in the background ignore Ctrl-C, and so would programs that we start:
# tests that interrupt them would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Subprocesses run the package that is installed, not the folder that the tests are started in.
os.environ["PYTHONSAFEPATH"] = "1"

from hypothesis import settings  # noqa: E402

# A test's first example may load a vocabulary, and shared machines stall: no deadlines.
settings.register_profile("pymixtral", deadline=None)
settings.load_profile("pymixtral")
