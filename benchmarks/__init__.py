"""Measurements, one folder a question. `python -m benchmarks` asks them all."""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # rates are those of one core; NumPy reads this when it is imported
