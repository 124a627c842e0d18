"""Coverage-guided fuzzing with atheris, which is not among samepage's dependencies.

    pip install atheris .          (in an environment of its own: see docs/fuzzing.md)
    python -m fuzz.atheris_elf read corpus/          (or: link, cache, exec)

Seeds are files in `corpus/`: copy some small libraries (for `exec`: programs) there first.
"""

import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports():
    from fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(
            f"usage: python -m fuzz.atheris_elf {'|'.join(TARGETS)} [CORPUS] [libFuzzer options]"
        )
    target = TARGETS[name]
    atheris.Setup(sys.argv, lambda data: void(target(data)))
    atheris.Fuzz()


def void(_: str) -> None:
    """libFuzzer keeps an input whose target returns nothing special."""


if __name__ == "__main__":
    main()
