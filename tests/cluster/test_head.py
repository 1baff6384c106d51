"""A head that doesn't answer any more is noticed before Ray ends the process without a word."""

import socket
import threading
import time

from sweeps.cluster import head


def test_a_head_that_goes_silent_is_told_of_once():
    lost = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with head.watched(address, lost.set, every=0.01):
            time.sleep(0.3)
            assert not lost.is_set() and head.answers(address, 1)
            server.close()
            assert lost.wait(20)
    assert not head.answers(address, 1)


def test_nothing_is_told_once_it_is_over():
    lost = threading.Event()
    with head.watched("127.0.0.1:1", lost.set, every=0.05):
        pass
    assert not lost.wait(1)
