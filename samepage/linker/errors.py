"""What goes wrong while linking, for a reason that lies in the files."""

from samepage.errors import SamepageError


class LinkError(SamepageError):
    """The program cannot be linked: a library, a version or a symbol is missing, or a
    file asks for what this linker cannot give. The message has ld.so's wording where
    ld.so has a message for it.
    """

    def __init__(self, message: str, exit_status: int = 127) -> None:
        super().__init__(message, exit_status)


class FailedAssertion(LinkError):
    """ld.so ends with a failed assertion, whose message does not give the reason."""

    def __init__(self, why: str, function: str, assertion: str) -> None:
        super().__init__(f"{why}, for which ld.so ends with an assertion ({function})")
        self.function = function
        self.assertion = assertion


class Crash(LinkError):
    """ld.so, or code that it calls, ends with a signal."""
