"""Tests run side by side, one on each processor. A linear-algebra library that starts a thread for
each processor in each of them spends most of its time waiting: the same figures take seven times as
long. It reads these when numpy is first imported, which is after this."""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
