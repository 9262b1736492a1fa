"""A model on disk: a folder with `model.json` and one `.npy` file for each array.

Nothing in it is trusted. Sizes are checked before anything is read, contents against the SHA-256
in `model.json`, headers before an array is made, and arrays hold plain finite numbers, never
pickled objects. `model.json` is in turn named by its own hash wherever the model is stamped.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from router.errors import ModelFileError

SCHEMA = 1
MAX_TOTAL_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 256 * 1024
MOST = 1e4  # the largest number of an array that nothing else is said of, far beyond what is learnt
_JSON_NAME = "model.json"
_ARRAY_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DTYPES = frozenset({"<f4", "<f8", "<i4"})


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A checked model: `hash` is the SHA-256 of its `model.json`, which names all the others."""

    name: str
    hash: str
    facts: Mapping[str, Any]  # everything that model.json says besides the arrays
    arrays: Mapping[str, NDArray[Any]]  # read-only


def save_model(
    path: str | Path, name: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> str:
    """Write a model folder and return its hash.

    Parameters
    ----------
    arrays
        Arrays of floats or 4-byte integers by name; written little-endian, in C order.
    facts
        JSON-ready facts: seed, trained_on, metrics, ….

    Raises
    ------
    ModelFileError
        If an array could not be loaded again, so that a model that was saved can be loaded.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    listed = {}
    for array_name, array in sorted(arrays.items()):
        file = folder / f"{array_name}.npy"
        plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        if plain.dtype.str not in _DTYPES or not np.isfinite(plain).all():
            raise ModelFileError(
                str(file), "an array must hold finite 4- or 8-byte floats or 4-byte integers"
            )
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, plain, allow_pickle=False)
        data = buffer.getvalue()
        file.write_bytes(data)
        listed[array_name] = {
            "bytes": len(data),
            "dtype": plain.dtype.str,
            "sha256": hashlib.sha256(data).hexdigest(),
            "shape": list(plain.shape),
        }
    document = {"schema": SCHEMA, "name": name, **facts, "arrays": listed}
    data = (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    (folder / _JSON_NAME).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def load_model(path: str | Path) -> ModelFile:
    """Read and check a model folder.

    Raises
    ------
    ModelFileError
        Naming the file at fault and why, whatever is wrong with it.
    """
    folder = Path(path)
    json_path = folder / _JSON_NAME
    data = _read(json_path, MAX_JSON_BYTES)
    document = _parse(json_path, data)
    listed = document.pop("arrays", None)
    name = document.pop("name", None)
    schema = document.pop("schema", None)
    if schema != SCHEMA:
        raise ModelFileError(str(json_path), f"schema is {schema!r}, this version reads {SCHEMA}")
    if not isinstance(name, str) or not _ARRAY_NAME.fullmatch(name):
        raise ModelFileError(str(json_path), "name must be lower-case letters, digits and _")
    if not isinstance(listed, dict) or not listed:
        raise ModelFileError(str(json_path), "arrays must be an object that lists at least one")
    room = MAX_TOTAL_BYTES - len(data)
    arrays = {}
    for array_name, entry in listed.items():
        # The name becomes a file's name, so it must not climb out of the folder.
        if not _ARRAY_NAME.fullmatch(array_name):
            raise ModelFileError(str(json_path), f"not an array's name: {array_name[:80]!r}")
        array = _read_array(folder / f"{array_name}.npy", json_path, entry, room)
        room -= entry["bytes"]
        arrays[array_name] = array
    return ModelFile(name, hashlib.sha256(data).hexdigest(), document, arrays)


def check_numbers(model: ModelFile, path: str, allowed: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers with which a score would be no number, or a cost without end.

    Parameters: `allowed`, by array its least and its largest number, where not -`MOST` and `MOST`.
    Raises `ModelFileError`, which names the array, its worst number and what is allowed.
    """
    for name, array in model.arrays.items():
        if array.dtype.kind == "f" and array.size:
            least, most = allowed.get(name, (-MOST, MOST))
            smallest, largest = float(array.min()), float(array.max())
            if not least <= smallest <= largest <= most:
                worst = smallest if smallest < least else largest
                raise ModelFileError(
                    path, f"{name} holds {worst:g}; allowed: from {least:g} to {most:g}"
                )


def _read(path: Path, limit: int) -> bytes:
    try:
        found = path.stat()
        # A device or a pipe could block or never end.
        if not stat.S_ISREG(found.st_mode):
            raise ModelFileError(str(path), "not a regular file")
        if found.st_size > limit:
            raise ModelFileError(str(path), f"{found.st_size} bytes; at most {limit} are allowed")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
        raise ModelFileError(str(path), reason) from error
    if len(data) > limit:
        raise ModelFileError(str(path), f"more than {limit} bytes")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(str(path), f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelFileError(str(path), "not a JSON object")
    return document


def _read_array(path: Path, json_path: Path, entry: Any, room: int) -> NDArray[Any]:
    shape, dtype, size, sha256 = _declared(json_path, path.stem, entry)
    if size > room:
        raise ModelFileError(
            str(path), f"the model's files exceed {MAX_TOTAL_BYTES} bytes together"
        )
    data = _read(path, size)
    if len(data) != size:
        raise ModelFileError(str(path), f"truncated: {len(data)} of {size} bytes")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelFileError(str(path), "its SHA-256 is not the one that model.json names")
    try:
        array = _decode(data, shape, dtype)
    except (ValueError, TypeError, EOFError, MemoryError, RecursionError, SyntaxError) as error:
        raise ModelFileError(str(path), str(error)) from error
    if not np.isfinite(array).all():
        raise ModelFileError(str(path), "holds numbers that are not finite")
    array.flags.writeable = False
    return array


def _declared(json_path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], str, int, str]:
    facts = entry if isinstance(entry, dict) else {}
    shape, dtype = facts.get("shape"), facts.get("dtype")
    size, sha256 = facts.get("bytes"), facts.get("sha256")
    if (
        not isinstance(shape, list)
        or len(shape) > 3
        or not all(type(length) is int and 0 <= length <= MAX_TOTAL_BYTES for length in shape)
        or dtype not in _DTYPES
        or type(size) is not int
        or size < 0
        or not isinstance(sha256, str)
    ):
        raise ModelFileError(
            str(json_path),
            f"arrays.{name} must have shape (at most 3 lengths), dtype ({', '.join(_DTYPES)}), "
            "bytes and sha256",
        )
    return tuple(shape), dtype, size, sha256


def _decode(data: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Decode `.npy` bytes, refusing before any allocation whatever model.json did not declare."""
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    if version != (1, 0):
        raise ValueError(f".npy version {version}, not (1, 0)")
    found_shape, fortran, found_dtype = np.lib.format.read_array_header_1_0(buffer)
    if found_dtype.hasobject or found_dtype.str != dtype or fortran:
        raise ValueError(f"dtype {found_dtype}, not {dtype} in C order")
    if found_shape != shape:
        raise ValueError(f"shape {found_shape}, not {shape}")
    if len(data) - buffer.tell() != int(np.prod(shape, dtype=object)) * found_dtype.itemsize:
        raise ValueError("its length does not fit its shape")
    buffer.seek(0)
    array: NDArray[Any] = np.load(buffer, allow_pickle=False)
    return array
