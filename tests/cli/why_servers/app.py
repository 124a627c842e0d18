"""A WSGI application that loads its data before gunicorn forks (--preload)."""

import gc
import os


class Record:
    """An object of the data."""

    def __init__(self, number):
        self.number, self.tags = number, [str(number)]


RECORDS = [Record(number) for number in range(40_000)]
if os.environ.get("FREEZE"):
    gc.collect()
    gc.freeze()
SERVED = []


def app(environ, start_response):
    """Read some records, write to some, and make garbage that is collected now and then."""
    number = len(SERVED)
    SERVED.append(environ["PATH_INFO"])
    total = sum(record.number for record in RECORDS[number * 40 : number * 40 + 40])
    for record in RECORDS[number::2000]:
        record.tags.append(str(total))
    rows = [{"total": total, "again": [total]} for _ in range(300)]
    if number % 8 == 7:
        gc.collect()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {total} {len(rows)}\n".encode()]
