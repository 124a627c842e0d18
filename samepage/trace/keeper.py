"""Injections made by a process of their own, which finishes them whatever becomes of us.

While a thread makes a system call for us, its registers are borrowed. If its tracer were killed
at that moment, the kernel would let the thread run with them. So the tracer is a helper that
nothing but us knows: it is forked when `Keeper` is made, lives in a session of its own (no
Ctrl-C reaches it), and is asked through a socket. If we die, it finishes what it is doing,
finds the socket closed, and exits, which closes whatever it still holds.

One request is a pid (4 bytes). The answer is a byte, with a userfaultfd (SCM_RIGHTS) or the
text of an error; a second message follows when the helper holds no copy of the descriptor any
more, so that closing it here undoes the registration at once.
"""

import contextlib
import os
import signal
import socket
import struct

from samepage.errors import SamepageError
from samepage.trace.write_protect import Registration, create_in

_REQUEST = struct.Struct("<I")
_OK, _FAILED, _GONE = b"\0", b"\1", b"\2"
_LONGEST_ANSWER = 4096
_PATIENCE = 30.0
"""Seconds for one answer: above every bound of the injection together."""


class Keeper:
    """The helper process. Made before threads are started, since it is a fork; `close` ends it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        self._socket = ours
        ours.settimeout(_PATIENCE)

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def arm(self, pid: int) -> Registration:
        """A registration without areas for the memory of a running process
        (`write_protect.register_private` adds them).

        Raises `SamepageError` where it cannot be made, `ProcessLookupError` if it is gone.
        """
        try:
            self._socket.send(_REQUEST.pack(pid))
            answer, fds, _, _ = socket.recv_fds(self._socket, _LONGEST_ANSWER, 1)
            self._socket.recv(1)
        except OSError as error:
            raise SamepageError(f"the helper that stops processes is gone: {error}") from error
        if answer[:1] == _OK and fds:
            return Registration(fds[0])
        text = answer[1:].decode("utf-8", "replace")
        if answer[:1] == _GONE:
            raise ProcessLookupError(text)
        raise SamepageError(text or "the helper that stops processes has ended")

    def close(self) -> None:
        """End the helper."""
        self._socket.close()
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0


def _serve(requests: socket.socket) -> None:
    """The helper's whole life; does not return."""
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            data = requests.recv(_REQUEST.size)
            if len(data) < _REQUEST.size:
                break
            _answer(requests, *_REQUEST.unpack(data))
    finally:
        os._exit(0)


def _answer(requests: socket.socket, pid: int) -> None:
    fd = -1
    try:
        fd = create_in(pid)
        socket.send_fds(requests, [_OK], [fd])
    except SamepageError as error:
        requests.send(_FAILED + error.message.encode())
    except ProcessLookupError as error:
        requests.send(_GONE + str(error).encode())
    except OSError as error:
        requests.send(_FAILED + f"process {pid}: {error}".encode())
    finally:
        if fd >= 0:
            os.close(fd)
    requests.send(_OK)
