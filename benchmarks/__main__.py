"""Run every benchmark: each module of this package that has a `main`."""

import importlib
import pkgutil

import benchmarks

for module in pkgutil.iter_modules(benchmarks.__path__):
    if module.name.startswith("_"):
        continue
    main = getattr(importlib.import_module(f"benchmarks.{module.name}"), "main", None)
    if main is not None:
        print(f"== benchmarks.{module.name}", flush=True)
        main()
