import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from router.errors import ModelFileError
from router.predict import load_predictor, model_file
from router.predict.model_file import MAX_JSON_BYTES, MAX_TOTAL_BYTES, load_model, save_model


@pytest.fixture
def folder(tmp_path):
    arrays = {"first": np.arange(6.0).reshape(2, 3), "second": np.ones(4, dtype=np.float32)}
    save_model(tmp_path / "model", "small", arrays, {"seed": 7})
    return tmp_path / "model"


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def rewrite(folder, change):
    path = folder / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def plant(folder, data, name="first", **declared):
    """Put `data` in place of an array and make model.json vouch for it."""
    (folder / f"{name}.npy").write_bytes(data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **declared}
    rewrite(folder, lambda document: document["arrays"][name].update(facts))


def refused(folder, file, reason):
    with pytest.raises(ModelFileError, match=reason) as caught:
        load_model(folder)
    assert caught.value.path == str(folder / file)


def test_what_was_saved_is_loaded_and_the_hash_names_it(folder):
    model = load_model(folder)
    assert model.name == "small"
    assert model.facts == {"seed": 7}
    assert model.hash == hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    assert (model.arrays["first"] == np.arange(6.0).reshape(2, 3)).all()
    assert not model.arrays["first"].flags.writeable


def test_four_byte_integers_are_kept_as_they_are(tmp_path):
    for dtype in ("<i4", ">i4"):
        save_model(tmp_path, "small", {"first": np.array([3, -1, 2**31 - 1], dtype=dtype)}, {})
        found = load_model(tmp_path).arrays["first"]
        assert found.dtype.str == "<i4"
        assert found.tolist() == [3, -1, 2**31 - 1]


def test_saving_the_same_model_twice_gives_the_same_hash(tmp_path):
    arrays = {"first": np.ones((2, 2), order="F")}
    hashes = {save_model(tmp_path / name, "small", arrays, {}) for name in ("a", "b")}
    assert len(hashes) == 1


def test_a_missing_folder_or_file_is_named(folder):
    (folder / "second.npy").unlink()
    refused(folder, "second.npy", "missing")
    with pytest.raises(ModelFileError, match="missing"):
        load_predictor(folder / "nowhere")


def test_a_truncated_array_is_refused(folder):
    path = folder / "first.npy"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "first.npy", "truncated")


def test_a_changed_byte_is_refused(folder):
    path = folder / "first.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    refused(folder, "first.npy", "SHA-256")


def test_a_file_longer_than_declared_is_refused(folder):
    path = folder / "first.npy"
    path.write_bytes(path.read_bytes() + b"more")
    refused(folder, "first.npy", "bytes")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(np.zeros((3, 2))), "shape"),
        (npy(np.zeros((2, 3), dtype=np.int64)), "dtype"),
        (npy(np.zeros((2, 3), dtype=np.int32)), "dtype"),
        (npy(np.asfortranarray(np.ones((2, 3)))), "C order"),
        (npy(np.ones((2, 3)), version=(2, 0)), "version"),
        (npy(np.full((2, 3), np.nan)), "finite"),
        (npy(np.full((2, 3), np.inf)), "finite"),
        (npy(np.zeros((2, 3)))[:-8], "length"),
        (b"not an array at all", "magic"),
        (b"", "EOF|magic"),
    ],
)
def test_an_array_that_is_not_what_was_declared_is_refused(folder, data, reason):
    plant(folder, data)
    refused(folder, "first.npy", reason)


def test_a_header_that_claims_a_huge_array_is_refused_before_memory_is_taken(folder):
    shape = [MAX_TOTAL_BYTES, 1024, 1024]
    header = io.BytesIO()
    facts = {"descr": "<f8", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, facts)
    plant(folder, header.getvalue() + b"\0" * 48, shape=shape)
    refused(folder, "first.npy", "length")


def test_a_pickle_is_refused_and_does_not_run(folder, tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    objects = np.empty((2, 3), dtype=object)
    objects[0, 0] = Hostile()
    plant(folder, npy(objects, allow_pickle=True))
    refused(folder, "first.npy", "dtype")
    plant(folder, pickle.dumps(Hostile()))
    refused(folder, "first.npy", "magic")
    plant(folder, npy(objects, allow_pickle=True), dtype="|O")
    refused(folder, "model.json", "dtype")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../first", "/etc/passwd", "a/b", "", "Upper", "nul\0", ".."])
def test_a_name_that_leaves_the_folder_is_refused(folder, name):
    rewrite(folder, lambda document: document["arrays"].update({name: document["arrays"]["first"]}))
    refused(folder, "model.json", "not an array's name")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 40_000, "not JSON"),
        ('{"schema": ' + "9" * 100_000 + "}", "not JSON"),
        ('{"schema": 1, "name": "x", "size": NaN}', "not JSON"),
        ('{"schema": 2, "name": "x", "arrays": {}}', "schema is 2"),
        ('{"schema": 1, "name": "../x", "arrays": {}}', "name must be"),
        ('{"schema": 1, "name": "x", "arrays": {}}', "at least one"),
        ('{"schema": 1, "name": "x", "arrays": {"first": 3}}', "must have shape"),
        (" " * (MAX_JSON_BYTES + 1), "at most"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "not JSON"),
    ],
)
def test_a_model_json_that_cannot_be_trusted_is_refused(folder, text, reason):
    (folder / "model.json").write_bytes(text.encode("latin-1"))
    refused(folder, "model.json", reason)


def test_files_that_exceed_the_limit_together_are_refused_unread(folder):
    rewrite(folder, lambda d: d["arrays"]["second"].update(bytes=MAX_TOTAL_BYTES + 1))
    refused(folder, "second.npy", "exceed")


def test_files_that_exceed_the_limit_only_together_are_refused(folder, monkeypatch):
    sizes = [path.stat().st_size for path in folder.iterdir()]
    monkeypatch.setattr(model_file, "MAX_TOTAL_BYTES", sum(sizes))
    assert load_model(folder).name == "small"
    monkeypatch.setattr(model_file, "MAX_TOTAL_BYTES", sum(sizes) - 1)
    refused(folder, "second.npy", "exceed")


def test_the_shipped_model_is_far_below_the_limit():
    folder = Path(model_file.__file__).with_name("default_model")
    assert sum(path.stat().st_size for path in folder.iterdir()) < MAX_TOTAL_BYTES / 2


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(folder):
    (folder / "first.npy").unlink()
    os.mkfifo(folder / "first.npy")
    refused(folder, "first.npy", "not a regular file")


def test_an_array_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    for array in (np.array([np.nan]), np.array([1, 2]), np.array([None])):
        with pytest.raises(ModelFileError):
            save_model(tmp_path, "small", {"first": array}, {})
