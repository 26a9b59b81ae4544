"""Checkpoints are complete or absent, whoever died while writing them."""

from __future__ import annotations

import pytest

from luthier_trainer.checkpoint import CheckpointStore, Marker, list_files, record_files, share_of
from luthier_trainer.errors import Superseded, UserError


def make_store(folder, **changes) -> CheckpointStore:
    values = {"attempt": 1, "job_uid": "uid-1", "config_digest": "sha256:c", "keep": 2}
    return CheckpointStore(folder=folder, **{**values, **changes})


def write(store: CheckpointStore, step: int, *, seal: bool = True, world_size: int = 1):
    path = store.path_of(step)
    (path / "sub").mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * 100)
    (path / "sub" / "optimizer").write_bytes(str(step).encode())
    marker = Marker(
        step=step,
        attempt=store.attempt,
        job_uid=store.job_uid,
        config_digest=store.config_digest,
        world_size=world_size,
        zero_stage=0,
        data_position=step,
        files=tuple(record_files(path, list_files(path))),
    )
    if seal:
        store.seal(path, marker)
    return path


def newest_step(store: CheckpointStore) -> int | None:
    found = store.newest(world_size=1, zero_stage=0)
    return found.marker.step if found else None


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    found = make_store(tmp_path / "checkpoints")
    found.claim()
    return found


def test_the_newest_complete_one_is_found_by_number_not_by_name(store):
    for step in (9, 10):
        write(store, step)
    assert newest_step(store) == 10


@pytest.mark.row(36)
def test_one_without_its_marker_is_as_if_absent(store):
    write(store, 5)
    write(store, 6, seal=False)
    assert newest_step(store) == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed", "marker cut"])
@pytest.mark.row(36)
def test_a_damaged_one_is_passed_over(store, damage):
    write(store, 5)
    path = write(store, 6)
    if damage == "cut":
        (path / "weights").write_bytes(b"w" * 99)
    elif damage == "flipped":
        (path / "weights").write_bytes(b"w" * 99 + b"x")
    elif damage == "removed":
        (path / "sub" / "optimizer").unlink()
    else:
        marker = (path / "COMPLETE").read_bytes()
        (path / "COMPLETE").write_bytes(marker[: len(marker) // 2])
    assert newest_step(store) == 5


def test_files_that_the_marker_does_not_list_do_not_matter(store):
    path = write(store, 5)
    (path / "stray").write_bytes(b"x")
    assert newest_step(store) == 5


@pytest.mark.parametrize("changes", [{"job_uid": "uid-2"}, {"config_digest": "sha256:d"}])
def test_another_runs_checkpoints_are_passed_over(store, changes):
    write(store, 5)
    assert newest_step(make_store(store.folder, **changes)) is None


@pytest.mark.parametrize(("world_size", "zero_stage"), [(2, 0), (1, 2)])
def test_another_shape_of_the_gang_is_refused(store, world_size, zero_stage):
    write(store, 5)
    with pytest.raises(UserError, match="written by 1 processes with ZeRO stage 0") as error:
        store.newest(world_size=world_size, zero_stage=zero_stage)
    assert error.value.reason == "WorldSizeChanged"


def test_rotation_keeps_the_newest_complete_ones(store):
    for step in (1, 2, 3, 4):
        write(store, step)
    assert sorted(p.name for p in store.folder.iterdir() if p.is_dir()) == ["step-3.1", "step-4.1"]


def test_a_new_attempt_removes_what_the_old_one_left_half_written(store):
    write(store, 5)
    write(store, 6, seal=False)
    (store.folder / ".writing.1" / "checkpoint-7").mkdir(parents=True)
    second = make_store(store.folder, attempt=2)
    second.claim()
    assert sorted(p.name for p in store.folder.iterdir()) == ["ATTEMPT", "step-5.1"]
    write(second, 5)
    assert second.newest(world_size=1, zero_stage=0).path.name == "step-5.2"


def test_an_old_attempt_that_comes_back_writes_nothing_more(store):
    make_store(store.folder, attempt=2).claim()
    with pytest.raises(Superseded, match="attempt 2 has taken over from attempt 1"):
        write(store, 7)
    assert newest_step(store) is None
    with pytest.raises(Superseded):
        store.claim()


def test_the_processes_share_the_files_without_gap_or_overlap():
    files = list("abcdefg")
    shares = [share_of(files, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(f for share in shares for f in share) == files
