"""What reaches into Unicorn's private state still does what it is for."""

import ctypes
from importlib.metadata import version

import pytest

from samepage.cpu.engine import EngineError
from samepage.cpu.unicorn import private


def test_the_fields_of_the_installed_version_do_what_they_are_used_for():
    private.self_test()


def test_a_state_without_the_fields_is_refused_with_the_version():
    state = ctypes.create_string_buffer(private.STATE_SIZE)
    handle = ctypes.c_void_p(ctypes.addressof(state))
    with pytest.raises(EngineError, match=version("unicorn")):
        private.find_no_exit_request(handle, lambda: None)
    with pytest.raises(EngineError, match=version("unicorn")):
        private.find_counter(handle)


def test_two_places_that_look_alike_are_refused():
    state = ctypes.create_string_buffer(private.STATE_SIZE)
    handle = ctypes.c_void_p(ctypes.addressof(state))
    words = memoryview(state).cast("B").cast("Q")

    def initialise():
        words[3] = words[7] = 1 << 24

    with pytest.raises(EngineError, match="stops exact"):
        private.find_no_exit_request(handle, initialise)


def test_a_counter_that_does_not_count_fails_the_self_test(monkeypatch):
    found = ctypes.c_size_t(7)
    monkeypatch.setattr(private, "find_counter", lambda handle: found)
    with pytest.raises(EngineError, match="counted 7 instructions of 100"):
        private.self_test()
