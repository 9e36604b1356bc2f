"""The object tier without a cluster: what the index keeps, and tensors on their way (with one: test_ray_objects.py)."""

from __future__ import annotations

import pickle

import pytest
import torch

from tests.runs.toy import STUDY
from wanlab.runs.objects import Index, capacity, packed, room, unpacked
from wanlab.runs.reading import parse_study

GIB = 1024**3


def test_tensors_come_back_as_they_were_in_memory_of_their_own() -> None:
    outputs = {
        "video": torch.randn(2, 3, 4).transpose(0, 2),
        "half": torch.randn(3).bfloat16(),
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 4),
    }
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(packed(outputs), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == len(outputs), "the bytes of a tensor are copied on their way"
    found = unpacked(pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers]))  # read-only, as shared memory is
    for name, tensor in outputs.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        found[name].zero_()  # may be written to
    assert not torch.equal(outputs["video"], found["video"])


def test_the_index_keeps_to_its_limit_and_forgets_what_was_lost() -> None:
    index = Index(100)
    for key in "abc":
        assert index.room(key, 40, False)
        index.keep(key, [f"object {key}"], 40, False)
    assert index.find("a") == [] and index.find("b") == ["object b"] and index.has("c")
    assert not index.room("c", 40, False), "what is there was to be put again"
    assert not index.room("d", 101, False)
    held = index.held()
    assert (held.used, held.peak, held.limit, held.objects, held.dropped) == (80, 80, 100, 2, 1)
    index.lost("c")
    assert index.find("c") == [] and index.held().used == 40


def test_the_end_of_a_cell_makes_nothing_go_that_others_go_on_from() -> None:
    index = Index(100)
    index.keep("state", ["s"], 60, False)
    assert index.room("clip", 40, True) and not index.room("longer clip", 50, True)
    index.keep("clip", ["c"], 40, True)
    assert index.room("other state", 30, False)
    index.keep("other state", ["o"], 30, False)
    assert index.has("state") and not index.has("clip") and index.held().dropped == 0


@pytest.mark.parametrize("limit", [0, 1, GIB, 10 * GIB])
def test_a_store_is_made_large_enough_for_its_limit(limit: int) -> None:
    transit = 200 * 1024**2
    assert limit <= room(capacity(limit, transit), transit) <= limit + 2
    assert room(transit, transit) == 0


def test_a_study_states_how_much_is_shared_and_it_changes_no_key() -> None:
    settings: list[list[str]] = [[], ["cache.object_store_gib=0.5"], ["cache.disk=there"], ["share.cache=false"]]
    studies = [parse_study(STUDY, sets)[0] for sets in settings]
    assert [study.objects for study in studies] == [2 * GIB, GIB // 2, 0, 0]
    assert studies[0].hash == studies[1].hash
