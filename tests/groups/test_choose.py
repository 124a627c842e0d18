"""Which processes options choose, of processes that are made up."""

import pytest

from samepage.errors import SamepageError
from samepage.groups.selection import Selection, choose, group_path
from samepage.snapshot.columns import Process

ID = "0123456789abcdef" * 4
UID = "4d53b9fa-bc23-4b4b-bc5a-3a6f2f1d0b1e"
POD = f"/kubepods/burstable/pod{UID}"
USERS = {"root": 0, "www-data": 33}
NGINX = "/system.slice/nginx.service"

PROCESSES = [
    Process(1, 0, ("/sbin/init",), "systemd", "/usr/lib/systemd/systemd", cgroup="/init.scope"),
    Process(10, 1, ("nginx: master process",), "nginx", "/usr/sbin/nginx", cgroup=NGINX),
    Process(11, 10, ("nginx: worker process",), "nginx", "/usr/sbin/nginx", 33, cgroup=NGINX),
    Process(12, 10, ("nginx: worker process",), "nginx", "/usr/sbin/nginx", 33, cgroup=NGINX),
    Process(20, 1, ("bash",), "bash", "/bin/bash", 1000, "/user.slice/user-1000.slice/s.scope"),
    Process(21, 20, ("puma 6 [shop]",), "puma 6", "/usr/bin/ruby3.1", 1000, f"/docker/{ID}",
            f"docker:{ID}", container_name="shop-web"),
    Process(22, 21, ("sh",), "sh", "/bin/dash", 0, f"{POD}/{ID[::-1]}", f"kubernetes:{ID[::-1]}",
            container_name="web", pod="prod/shop-7d"),
]  # fmt: skip


def chosen(*targets: str, **options: str | tuple[str, ...]) -> list[int]:
    pairs = [
        (kind, value)
        for kind, values in options.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]
    return choose(Selection.of(targets, pairs), PROCESSES, user_number=USERS.get)


def test_without_a_choice_it_is_all() -> None:
    assert chosen() == [1, 10, 11, 12, 20, 21, 22]
    assert not Selection()


@pytest.mark.parametrize(
    ("options", "pids"),
    [
        ({"cgroup": "/system.slice"}, [10, 11, 12]),
        ({"cgroup": "/sys/fs/cgroup/system.slice/nginx.service/"}, [10, 11, 12]),
        ({"cgroup": "/sys/fs/cgroup/memory/docker"}, [21]),
        ({"cgroup": "/"}, [1, 10, 11, 12, 20, 21, 22]),
        ({"unit": "nginx"}, [10, 11, 12]),
        ({"unit": "nginx.service"}, [10, 11, 12]),
        ({"unit": "user-*.slice"}, [20]),
        ({"unit": ("nginx", "s.scope")}, [10, 11, 12, 20]),
        ({"user": "www-data"}, [11, 12]),
        ({"user": "1000"}, [20, 21]),
        ({"container": "shop-web"}, [21]),
        ({"container": "shop-*"}, [21]),
        ({"container": f"docker:{ID}"}, [21]),
        ({"container": ID[:12]}, [21]),
        ({"pod": "prod/shop-7d"}, [22]),
        ({"pod": "shop-7d"}, [22]),
        ({"pod": UID}, [22]),
        ({"tree": "10"}, [10, 11, 12]),
        ({"tree": "bash"}, [20, 21, 22]),
    ],
)
def test_each_kind(options: dict[str, str], pids: list[int]) -> None:
    assert chosen(**options) == pids


def test_names_are_comm_argv_and_exe() -> None:
    assert chosen("nginx") == [10, 11, 12]
    assert chosen("puma") == [21]
    assert chosen("ruby3.1", "1") == [1, 21]
    assert chosen("systemd") == [1]


def test_one_of_each_kind_is_wanted() -> None:
    assert chosen("nginx", user="www-data") == [11, 12]
    assert chosen(tree="1", user=("1000", "33")) == [11, 12, 20, 21]
    with pytest.raises(SamepageError, match="no process is called bash and of the user www-data"):
        chosen("bash", user="www-data")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cgroup": "/a"}, "no process is in the control group /a"),
        ({"unit": "a"}, "no process is of the unit a"),
        ({"pod": "a"}, "no process is in the pod a"),
        ({"container": "012"}, "no process is in the container 012"),
        ({"user": "nobody"}, "there is no user nobody"),
        ({"user": "7"}, "no process is of the user 7"),
        ({"tree": "99"}, "there is no process 99"),
    ],
)
def test_what_is_not_there_is_an_error(options: dict[str, str], words: str) -> None:
    with pytest.raises(SamepageError, match=words):
        chosen(**options)


def test_paths_of_control_groups_as_they_are_typed() -> None:
    assert group_path("/sys/fs/cgroup") == "/"
    assert group_path("/sys/fs/cgroup/unified/a/b/") == "/a/b"
    assert group_path("a.slice") == "/a.slice"
