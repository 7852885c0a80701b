"""What the reader of pickles gives for good files: the same values as Python's own, tensors as torch's."""

import io
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys.mmodalcc_release import make, saved

from rscc_hf.conversion.mmodalcc_release import CLASSES
from rscc_hf.conversion.pickle_reader import modules_of, open_released, state_dict_of
from rscc_hf.conversion.pickle_reader_machine import BoundedFile, PickleMachine, Placeholder
from rscc_hf.conversion.pickle_reader_values import TensorRef, allowed_names
from rscc_hf.errors import UnsafePickleError

KEYS = st.one_of(st.text(max_size=8), st.integers(-(2**40), 2**40), st.booleans(), st.none())
PLAIN = st.recursive(
    st.one_of(KEYS, st.floats(allow_nan=False), st.integers(-(2**100), 2**100)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner, inner, inner),
        st.tuples(inner),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(KEYS, max_size=4),
    ),
    max_leaves=20,
)


def read(data: bytes) -> Any:
    def no_persistent_id(given: Any) -> Any:
        raise UnsafePickleError("a persistent id")

    file = BoundedFile(io.BytesIO(data), len(data))
    return PickleMachine(allowed_names(CLASSES), no_persistent_id).run(file)


@given(PLAIN, st.integers(2, 5))
def test_plain_values_are_those_that_were_pickled(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(PLAIN)
def test_one_value_at_two_places_stays_one(value: Any) -> None:
    twice = [value, value, [value]]
    first, second, (third,) = read(pickle.dumps(twice, 2))
    assert first == second == third == value
    if isinstance(value, list | dict):
        assert first is second is third


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read(b"\x80\x02" + data)
    except UnsafePickleError as error:
        assert str(error).isprintable()


@given(PLAIN, st.data())
def test_any_changed_byte_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    pickled = bytearray(pickle.dumps([value, OrderedDict(a=value)], 2))
    place = data.draw(st.integers(0, len(pickled) - 1))
    pickled[place] = data.draw(st.integers(0, 255))
    try:
        read(bytes(pickled))
    except UnsafePickleError as error:
        assert str(error).isprintable()


def test_dicts_of_collections_are_plain_ones() -> None:
    factory: defaultdict[str, Any] = defaultdict(dict)
    factory["a"]["b"] = 1
    for protocol in (2, 4):
        assert read(pickle.dumps(factory, protocol)) == {"a": {"b": 1}}
        found = read(pickle.dumps(OrderedDict(b=1, a=2), protocol))
        assert found == {"b": 1, "a": 2} and list(found) == ["b", "a"] and type(found) is dict


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_are_those_that_were_saved(tmp_path: Path, legacy: bool, dtype: torch.dtype) -> None:
    numbers = torch.arange(24).to(dtype)
    views = {
        "all": numbers,
        "transposed": numbers.view(2, 3, 4).permute(2, 0, 1),
        "every-third": numbers[1::3],
        "scalar": numbers[5],
        "none": numbers[:0],
        "empty": torch.empty(0, 3, dtype=dtype),
    }
    if dtype.is_floating_point:
        views["parameter"] = torch.nn.Parameter(numbers.clone(), requires_grad=False)
    path = tmp_path / "tensors.pt"
    path.write_bytes(saved(views, legacy=legacy, device="xla:3"))
    with open_released(path, CLASSES) as file:
        assert list(file.content) == list(views)
        for name, expected in views.items():
            ref = file.content[name]
            assert type(ref) is TensorRef
            found = file.tensor(ref, name)
            assert found.dtype == dtype and found.is_contiguous() and torch.equal(found, expected)


def test_modules_are_placeholders_with_their_fields(tmp_path: Path) -> None:
    inner = torch.nn.BatchNorm2d(3)
    inner.register_buffer("transient", torch.ones(2), persistent=False)
    module = make("resblock", {"norm": inner, "nothing": None}, heads=7)
    path = tmp_path / "modules.pt"
    path.write_bytes(saved({"module": module}))
    with open_released(path, CLASSES) as file:
        found = file.content["module"]
        assert type(found) is Placeholder and found.class_name == "resblock" and found.fields["heads"] == 7
        assert {name: part.class_name for name, part in modules_of(found, "m").items()} == {
            "m": "resblock",
            "m.norm": "BatchNorm2d",
        }
        state = {name: file.tensor(ref, name) for name, ref in state_dict_of(found, "m").items()}
    expected = {f"m.{name}": value for name, value in module.state_dict().items()}
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_a_class_that_is_not_listed_is_refused_though_torch_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "modules.pt"
    path.write_bytes(saved({"module": torch.nn.GRU(1, 1)}))
    refused = pytest.raises(
        ValueError, match=r"modules\.pt cannot be converted: it names torch\.nn\.modules\.rnn\.GRU,"
    )
    with refused, open_released(path, CLASSES):
        pass
