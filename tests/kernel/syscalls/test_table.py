"""The table knows every module of system calls."""

import importlib
import pkgutil

from samepage.kernel import syscalls
from samepage.kernel.syscalls import table


def test_every_module_of_system_calls_is_in_the_table() -> None:
    names = [module.name for module in pkgutil.iter_modules(syscalls.__path__)]
    for name in names:
        importlib.import_module(f"{syscalls.__name__}.{name}")
    handlers = {handler.function.__module__ for handler in table.HANDLERS.values()}
    with_handlers = [name for name in names if f"{syscalls.__name__}.{name}" in handlers]
    assert sorted(table._MODULES) == sorted(with_handlers)
