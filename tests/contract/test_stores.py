"""What every store promises, asked of each; and what only a folder can get wrong: crashes and full disks.

What only a bucket can get wrong is in test_s3.py.
"""

import errno
import os
import time
from datetime import timedelta
from functools import partial
from threading import Thread

import pytest

from service.artifacts import FolderStore, ObjectMissing
from tests.stores import PLAIN, VERSIONED, Place
from tests.world import running

NAME = "samples/0198f2aa-7b1c.safetensors"
OTHER = "prompts/0198f2aa-7b1c.safetensors"
HOUR = timedelta(hours=1)
BAD_NAMES = [
    "",
    "samples",
    "samples/",
    "/samples/a",
    "../samples/a",
    "samples/../a",
    "samples/..",
    "samples/b/c",  # a folder named by the last two characters would be "/c"
    "samples//a",
    "samples/a/",
    "samples/a.b.c",
    "samples/.tmp-a",
    "samples/a\n",
    "samples/a\0b",
    "samples/a b",
    "Samples/a",
    "samples\\a",
    "samples/ä",
]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "objects"


@pytest.fixture(params=["folder", PLAIN, VERSIONED])
def store(request, root):
    """The last two are buckets of an S3 server."""
    if request.param in (PLAIN, VERSIONED):
        return Place(request.getfixturevalue("s3_server"), request.param).open()
    return FolderStore(root)


@pytest.fixture
def folder(root):
    return FolderStore(root)


def files(root):
    return [path for path in root.rglob("*") if path.is_file()]


def disk_full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


# ------------------------------------------------------------------------------------------------ all stores alike


@pytest.mark.parametrize("data", [b"", b"\0\n\r\xff", bytes(1_000_000)], ids=["empty", "binary", "large"])
def test_what_is_put_is_what_is_got(store, data):
    store.put(NAME, data)
    assert store.get(NAME) == data


@pytest.mark.parametrize("name", ["samples/a", "samples/a-b_C9.bin", "s/0", "samples/" + "f" * 64])
def test_every_proper_name_works(store, name):
    store.put(name, b"data")
    assert store.get(name) == b"data"
    assert list(store.names(name.split("/", 1)[0])) == [name]


def test_many_are_put_at_once(store):
    items = [(f"samples/{index:03}", bytes([index]) * index) for index in range(60)]
    store.put_many([*items, (OTHER, b"elsewhere")])
    assert sorted(store.names("samples")) == [name for name, _ in items]
    assert all(store.get(name) == data for name, data in [*items, (OTHER, b"elsewhere")])
    store.put_many([(OTHER, b"again")])
    store.put_many([])
    assert store.get(OTHER) == b"again"


def test_one_bad_name_among_many_leaves_nothing_half(store):
    with pytest.raises(ValueError, match="not a valid object name"):
        store.put_many([(NAME, b"data"), ("../escape", b"data"), (OTHER, b"data")])
    kept = [*store.names("samples"), *store.names("prompts")]
    assert all(store.get(name) == b"data" for name in kept)


def test_what_was_never_put_is_missing(store):
    with pytest.raises(ObjectMissing, match="0198f2aa"):
        store.get(NAME)


def test_what_is_deleted_is_missing(store):
    store.put(NAME, b"data")
    store.delete(NAME)
    with pytest.raises(ObjectMissing):
        store.get(NAME)
    assert list(store.names("samples")) == []


def test_deleting_twice_or_what_never_was_does_nothing(store):
    store.delete(NAME)
    store.put(NAME, b"data")
    store.delete(NAME)
    store.delete(NAME)


def test_a_name_can_be_used_again(store):
    store.put(NAME, b"first")
    store.delete(NAME)
    store.put(NAME, b"second")
    assert store.get(NAME) == b"second"


def test_putting_again_replaces_all_of_it(store):
    store.put(NAME, b"a long first version")
    store.put(NAME, b"short")
    assert store.get(NAME) == b"short"
    assert list(store.names("samples")) == [NAME]


def test_a_store_keeps_its_own_copy(store):
    data = bytearray(b"before")
    store.put(NAME, data)
    data[:] = b"after!"
    assert store.get(NAME) == b"before"


def test_names_are_those_of_the_prefix_and_of_nothing_that_begins_alike(store):
    for name in (NAME, OTHER, "samples/b", "samplesx/c", "sample/d"):
        store.put(name, b"data")
    assert sorted(store.names("samples")) == sorted([NAME, "samples/b"])
    assert list(store.names("prompts")) == [OTHER]
    assert list(store.names("nothing")) == []


def test_deleting_one_leaves_its_neighbours(store):
    names = [f"samples/{index:03}" for index in range(60)]
    for name in names:
        store.put(name, name.encode())
    for name in names[::2]:
        store.delete(name)
    assert sorted(store.names("samples")) == names[1::2]
    assert all(store.get(name) == name.encode() for name in names[1::2])


def test_names_can_be_listed_while_they_are_deleted(store):
    for index in range(20):
        store.put(f"samples/{index}", b"data")
    for name in store.names("samples"):
        store.delete(name)
    assert list(store.names("samples")) == []


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("act", ["put", "get", "delete"])
def test_a_name_that_could_leave_the_store_is_refused(store, tmp_path, name, act):
    arguments = (name, b"data") if act == "put" else (name,)
    with pytest.raises(ValueError, match="not a valid object name"):
        getattr(store, act)(*arguments)
    assert files(tmp_path) == []


@pytest.mark.parametrize("prefix", ["", "..", "/", "samples/..", "/etc", "*"])
def test_a_prefix_that_could_leave_the_store_is_refused(store, prefix):
    with pytest.raises(ValueError, match="not a valid prefix"):
        list(store.names(prefix))


def test_a_reader_sees_the_old_or_the_new_and_never_half(store):
    versions = [bytes([value]) * 200_000 for value in (1, 2)]
    store.put(NAME, versions[0])

    def write():
        for round in range(20):
            store.put(NAME, versions[round % 2])

    writer = Thread(target=write)
    writer.start()
    seen = [store.get(NAME)]
    while writer.is_alive():
        seen.append(store.get(NAME))
    writer.join()
    assert set(seen) <= set(versions)


def test_it_answers(store):
    store.check()


def test_several_threads_can_use_it_at_once(store):
    def work(index):
        name = f"samples/thread{index}"
        for round in range(5):
            store.put(name, bytes([index, round]))
            assert store.get(name) == bytes([index, round])
        if index % 2:
            store.delete(name)

    with running(*(partial(work, index) for index in range(8))):
        pass
    assert sorted(store.names("samples")) == [f"samples/thread{index}" for index in (0, 2, 4, 6)]


def test_a_sweep_leaves_finished_objects_alone(store):
    store.put(NAME, b"data")
    assert store.sweep(timedelta(0)) == 0
    assert store.get(NAME) == b"data"


# --------------------------------------------------------------------------------------------------- folders only


def test_a_folder_opened_again_holds_what_it_held(root, folder):
    folder.put(NAME, b"data")
    assert FolderStore(root).get(NAME) == b"data"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_neither_object_nor_temporary_file(root, folder, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, disk_full)
        with pytest.raises(OSError, match="No space left"):
            folder.put(NAME, b"data")
    assert files(root) == []
    with pytest.raises(ObjectMissing):
        folder.get(NAME)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up_among_many_leaves_whole_objects_only(root, folder, monkeypatch, call):
    real, left = getattr(os, call), [5]

    def fill_up(*arguments):
        left[0] -= 1
        if left[0] < 0:
            disk_full()
        return real(*arguments)

    folder.put(NAME, b"before")  # and its folders, which are flushed as well
    names = [f"samples/{index}-1c" for index in range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fill_up)
        with pytest.raises(OSError, match="No space left"):
            folder.put_many([(name, b"data") for name in names])
    kept = set(folder.names("samples"))
    assert len(files(root)) == len(kept)  # no temporary file
    assert kept == {NAME, *(names[:5] if call == "replace" else [])}


def test_each_file_and_each_folder_is_flushed_before_many_are_answered(root, folder, monkeypatch):
    folder.put_many([("samples/a-1c", b"data"), ("samples/a-2c", b"data")])
    flushed, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (flushed.append(os.readlink(f"/proc/self/fd/{number}")), real(number))
    )
    folder.put_many([("samples/b-1c", b"data"), ("samples/c-1c", b"data"), ("samples/b-2c", b"data")])
    assert [".tmp-" in path for path in flushed] == [True, True, True, False, False]
    assert flushed[3:] == [str(root / "samples" / "1c"), str(root / "samples" / "2c")]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_spares_the_version_before(root, folder, monkeypatch, call):
    folder.put(NAME, b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, disk_full)
        with pytest.raises(OSError, match="No space left"):
            folder.put(NAME, b"after")
    assert folder.get(NAME) == b"before"
    assert len(files(root)) == 1


@pytest.fixture
def crashed(folder, monkeypatch):
    """A store whose last writer was killed between writing and renaming."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", disk_full)
        patch.setattr("pathlib.Path.unlink", lambda self, missing_ok: None)  # the dead clean up nothing
        with pytest.raises(OSError, match="No space left"):
            folder.put(NAME, b"half")
    return folder


def test_what_a_crash_leaves_is_no_object(root, crashed):
    assert len(files(root)) == 1
    assert list(crashed.names("samples")) == []
    with pytest.raises(ObjectMissing):
        crashed.get(NAME)


def test_a_sweep_destroys_what_a_crash_left_once_it_is_old(root, crashed):
    crashed.put(OTHER, b"whole")
    assert crashed.sweep(HOUR) == 0  # its writer may be alive
    (leftover,) = [path for path in files(root) if path.name.startswith(".")]
    old = time.time() - 2 * HOUR.total_seconds()
    os.utime(leftover, (old, old))
    assert crashed.sweep(HOUR) == 1
    assert crashed.sweep(HOUR) == 0
    assert not leftover.exists()
    assert crashed.get(OTHER) == b"whole"


def test_old_objects_are_not_swept(root, folder):
    folder.put(NAME, b"data")
    (file,) = files(root)
    os.utime(file, (0, 0))
    assert folder.sweep(HOUR) == 0
    assert folder.get(NAME) == b"data"


def test_a_sweep_survives_a_writer_that_finishes_meanwhile(crashed, monkeypatch):
    def finished(self, missing_ok=False):
        raise FileNotFoundError(self)

    monkeypatch.setattr("pathlib.Path.unlink", finished)
    assert crashed.sweep(timedelta(seconds=-9)) == 0


def test_a_new_folder_is_flushed_with_the_folder_that_lists_it(root, folder, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino) or fsync(file))
    folder.put("samples/abcd", b"data")
    (file,) = files(root)
    expected = [root, root / "samples", file, file.parent]
    assert flushed == [path.stat().st_ino for path in expected]
