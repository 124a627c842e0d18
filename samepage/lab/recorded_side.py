"""What a live kernel showed once, as a side: nothing runs, and any machine can have it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from samepage.errors import SamepageError
from samepage.lab.observation import Observation
from samepage.lab.recorded_memory import unpack
from samepage.lab.recording import Recording, sound
from samepage.lab.scenario import Scenario


class RecordedSide:
    """A `Side` for the groups of one recording."""

    scenario: Scenario

    def __init__(self, recording: Recording, root: str, name: str) -> None:
        """`root` has the recorded files (`recorded_files.place`); `name` is the recording's in
        messages."""
        self._recording = recording
        self._root = root
        self._name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is running."""

    def prepare(self, scenario: Scenario) -> None:
        """As `Side.prepare`: only the scenario of the recording can be had again."""
        if _decisive(scenario) != _decisive(self._recording.scenario):
            raise SamepageError(f"{self._name} was recorded in another environment or instant")
        self.scenario = scenario

    def run(self, argv: Sequence[str]) -> int | None:
        """As `Side.run`; it was run when it was recorded, and how it ended was not."""
        return None

    def observe(self) -> Observation:
        """As `Side.observe`."""
        with sound(self._name):
            return unpack(self._recording, self.scenario.commands, self._root)


def _decisive(scenario: Scenario) -> tuple[object, ...]:
    """What all groups of a recording have in common."""
    return dict(scenario.env), scenario.cwd, scenario.stop_at, scenario.cold
