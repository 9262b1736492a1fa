"""Fail if an installed package runs code at every start of Python.

Compromised releases of litellm shipped a `.pth` file or a `sitecustomize.py`: code that runs
whether or not anything is imported.
"""

import sys
import sysconfig
from pathlib import Path

KNOWN = {"distutils-precedence.pth"}  # setuptools' own, in every virtual environment

places = {Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")}
found = [
    path
    for place in places
    for pattern in ("*.pth", "sitecustomize.py", "usercustomize.py")
    for path in place.glob(pattern)
    if path.name not in KNOWN
]
for path in found:
    print(f"{path} runs code at every start of Python", file=sys.stderr)
sys.exit(bool(found))
