"""What a lesson lacks is named with its remedy, what goes wrong in one line; the rest goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.demo.running import DEMO, ROOT, Done, demo, finish, left_of
from tunneld import cli
from tunneld.demo import LESSONS, load, needs
from tunneld.demo.screen import WIDTH
from tunneld.lab.sweep import NETNS_DIR

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
WITHOUT_TUN = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
WITHOUT_VXLAN = """
set -e
mkdir -p /etc/modprobe.d
echo 'install vxlan /bin/false' >/etc/modprobe.d/no-vxlan.conf
rmmod vxlan
exec "$@"
"""

# A course in little: one lesson that needs what is missing, and one that needs nothing.
COURSE = """
import sys, tunneld.demo
from tunneld import cli
names = sys.argv[1].split(",")
for name in set(tunneld.demo.LESSONS) - set(names):
    del tunneld.demo.LESSONS[name]
sys.exit(cli.main(["demo", *sys.argv[2:]]))
"""


def run(*argv: str, env: dict[str, str] | None = None) -> Done:
    """Run a command to its end, from the project's directory."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    )
    return finish(child)


def little_course(lessons: str, *args: str) -> list[str]:
    return [sys.executable, "-c", COURSE, lessons, *args]


def check_failure(done: Done, code: int, *parts: str) -> None:
    """See that a command ended with one line that has these parts, and left nothing."""
    assert done.code == code, done
    assert done.left == []
    assert done.err.startswith("tunneld: ")
    assert done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err


def missing_of(lessons: str) -> dict[str, list[str]]:
    return {row["lesson"]: row["missing"] for row in json.loads(lessons)}


def lessons_that_lack(part: str, missing: dict[str, list[str]]) -> list[str]:
    """Return them in the course's order; what else a machine lacks (perf) is not our matter."""
    return [name for name, lacks in missing.items() if any(part in lack for lack in lacks)]


class TestWithoutRoot:
    def test_a_lesson_says_so_and_what_to_do(self) -> None:
        done = run(*NOBODY, *DEMO, "tour")
        check_failure(done, 1, "lesson tour cannot run here", "needs root", "sudo", "unshare")
        assert done.out == ""

    def test_the_list_names_every_lesson_that_cannot_run_and_the_remedy_once(self) -> None:
        done = run(*NOBODY, *DEMO)
        assert (done.code, done.err) == (0, "")
        with_root = [name for name in LESSONS if "root" in load(name).LESSON.needs]
        assert done.out.count("cannot run here: hosts are made of network") == len(with_root)
        assert done.out.count("run it with sudo") == 1
        assert max(map(len, done.out.splitlines())) <= WIDTH
        missing = missing_of(run(*NOBODY, *DEMO, "--json").out)
        assert lessons_that_lack("needs root", missing) == with_root
        assert missing["cidr"] == []

    def test_the_rest_of_the_course_runs(self) -> None:
        done = run(*NOBODY, *DEMO, "all", "--json")
        assert done.code == 1
        document = json.loads(done.out)
        assert list(document["lessons"]) == ["cidr"]
        assert document["not_told"].keys() == LESSONS.keys() - {"cidr"}
        assert all("needs root" in text for text in document["not_told"].values())

    def test_the_remedy_works(self) -> None:
        remedy = needs.WITHOUT_ROOT.replace("tunneld demo NAME", " ".join([*DEMO, "--json"]))
        done = run(*NOBODY, "sh", "-c", remedy)
        assert done.code == 0, done.err
        assert not any("root" in lack for each in missing_of(done.out).values() for lack in each)

    def test_half_of_the_remedy_is_told_the_other_half(self) -> None:
        done = run(*NOBODY, "unshare", "-Urnm", *DEMO, "tour")
        check_failure(done, 1, "no network namespace can be made", "mount -t tmpfs none /run")


def test_root_without_its_rights_is_told() -> None:
    done = run(*WITHOUT_RIGHTS, *DEMO, "tour")
    check_failure(done, 1, "no network namespace can be made", "--privileged")


class TestWithoutTun:
    def test_a_lesson_says_so_and_what_to_do(self) -> None:
        done = run(*WITHOUT_TUN, *DEMO, "tour")
        check_failure(done, 1, "/dev/net/tun cannot be opened", "modprobe tun", "--device")

    def test_the_list_names_those_with_a_tunnel_only(self) -> None:
        missing = missing_of(run(*WITHOUT_TUN, *DEMO, "--json").out)
        with_tun = [name for name in LESSONS if "tun" in load(name).LESSON.needs]
        assert lessons_that_lack("/dev/net/tun cannot be opened (No such", missing) == with_tun

    def test_the_rest_of_the_course_runs(self) -> None:
        done = run(*WITHOUT_TUN, *little_course("tour,cidr", "all", "--json"))
        assert done.code == 1
        document = json.loads(done.out)
        assert (list(document["lessons"]), list(document["not_told"])) == (["cidr"], ["tour"])
        done = run(*WITHOUT_TUN, *little_course("tour,cidr", "all"))
        assert done.out.endswith("1 of 2 lessons told; not tour\n")
        assert done.err.count("\n") == 1


class TestWithoutVxlan:
    def test_a_kernel_without_it_is_told(self, tmp_path: Path) -> None:
        """Kernels with it: an `ip` that answers as one without does."""
        program = tmp_path / "ip"
        program.write_text(
            "#!/bin/sh\n"
            'case "$*" in *"type vxlan"*) echo "Error: Unknown device type." >&2; exit 2;; esac\n'
            f'exec {shutil.which("ip")} "$@"\n'
        )
        program.chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = run(*DEMO, "tour", env=env)
        check_failure(
            done, 1, "makes no vxlan device (Error: Unknown device type.)", "CONFIG_VXLAN"
        )
        missing = missing_of(run(*DEMO, "--json", env=env).out)
        with_vxlan = [name for name in LESSONS if "vxlan" in load(name).LESSON.needs]
        assert lessons_that_lack("makes no vxlan device", missing) == with_vxlan

    @pytest.mark.kernels
    @pytest.mark.timeout(600)
    def test_on_a_kernel_without_it_the_rest_of_the_course_runs(self) -> None:
        command = little_course("tour,cidr", "all", "--json")
        argv = [str(ROOT / "tests" / "kernels" / "vm"), "6.1", "bash", "-c", WITHOUT_VXLAN, "bash"]
        done = subprocess.run(
            [*argv, *command], cwd=ROOT, capture_output=True, text=True, timeout=540, check=False
        )
        assert done.returncode == 1, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        assert list(document["lessons"]) == ["cidr"]
        (told,) = document["not_told"].values()
        assert "this kernel makes no vxlan device (Error: Unknown device type.)" in told
        assert "modprobe vxlan" in told


def path_without(tool: str, directory: Path) -> dict[str, str]:
    """Return an environment whose PATH has all programs but one."""
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).glob("*"):
            link = directory / program.name
            if program.name != tool:
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return {**os.environ, "PATH": str(directory)}


class TestPrograms:
    @pytest.mark.parametrize(
        ("tool", "package"),
        [("iperf3", "iperf3"), ("ping", "iputils-ping"), ("ip", "iproute2")],
    )
    def test_one_that_is_not_installed_is_named_with_its_package(
        self, tool: str, package: str, tmp_path: Path
    ) -> None:
        env = path_without(tool, tmp_path)
        done = run(*DEMO, "tour", env=env)
        check_failure(done, 1, f"{tool} is not installed", f"apt-get install -y {package}")
        assert f"{tool} is not installed" in missing_of(run(*DEMO, "--json", env=env).out)["tour"]

    @pytest.mark.parametrize("args", [(), ("--json",)])
    def test_one_that_fails_in_the_middle_ends_the_lesson_with_one_line(
        self, args: tuple[str, ...], tmp_path: Path
    ) -> None:
        program = tmp_path / "iperf3"
        program.write_text("#!/bin/sh\necho 'iperf3: error - this is a test'\nexit 1\n")
        program.chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        page = tmp_path / "page.html"
        done = run(*DEMO, "tour", "--html", str(page), *args, env=env)
        check_failure(done, 1, "the lesson stopped in step 'How fast?", "iperf3")
        assert not page.exists()

    def test_what_takes_too_long_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not only a command that fails: a state that does not come is no traceback either."""

        def never(*_args: object, **_more: object) -> None:
            raise TimeoutError("no echo reply")

        monkeypatch.setattr("tunneld.demo.lessons.tour.Tour.ping", never)
        assert cli.main(["demo", "tour", "--json"]) == 1
        assert not list(NETNS_DIR.glob(f"tl{os.getpid()}-*"))


class TestUsage:
    @pytest.mark.parametrize(
        ("args", "parts"),
        [
            (("nonsense",), ("no lesson 'nonsense'", "one of: tour, ", "cidr")),
            (("cidr", "300.1.1.1/40"), ("argument '300.1.1.1/40'", "write it as 10.233.64.0/18")),
            (("cidr", "10.0.0.1"), ("argument '10.0.0.1': no prefix length",)),
            (("tour", "x"), ("lesson tour", "takes no arguments, got 'x'", "--help")),
            (("all", "x"), ("demo all", "takes no arguments, got 'x'")),
            (("all", "--html", "x.html"), ("flag --html", "run the lessons one by one")),
            (("tour", "--step", "--json"), ("flag --step", "--json")),
            (("tour", "--json", "--throttle", "0mbit"), ("flag --throttle", "0mbit", "200mbit")),
        ],
    )
    def test_what_cannot_be_is_named_with_its_remedy(
        self, args: tuple[str, ...], parts: tuple[str, ...]
    ) -> None:
        check_failure(demo(*args), 2, *parts)

    @pytest.mark.parametrize(
        ("args", "part"),
        [
            (
                ("tour", "--throttle", "nonsense"),
                "argument --throttle: 'nonsense' is not a rate as tc writes it; try 200mbit",
            ),
            (("tour", "--throttle", "200"), "argument --throttle: '200' is not a rate"),
            (("tour", "--seconds", "x"), "argument --seconds: 'x' is not a whole number from 1"),
            (("tour", "--seconds", "61"), "argument --seconds: '61' is not a whole number from 1"),
        ],
    )
    def test_a_bad_value_names_its_flag(self, args: tuple[str, ...], part: str) -> None:
        done = demo(*args)
        assert done.code == 2
        assert part in done.err.splitlines()[-1]
        assert done.out == ""

    @pytest.mark.parametrize("where", ["/proc/none/page.html", "/"])
    def test_a_page_that_cannot_be_written_is_told_before_the_lesson(self, where: str) -> None:
        done = demo("cidr", "--html", where)
        check_failure(done, 1, f"flag --html: cannot write {where}", "name a file in a directory")
        assert done.out == ""

    def test_a_page_that_is_there_stays_when_the_lesson_fails(self, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        page.write_text("the last run")
        assert demo("cidr", "10.0.0.1", "--html", str(page)).code == 2
        assert page.read_text() == "the last run"

    def test_the_end_of_the_input_is_enter(self) -> None:
        done = demo("cidr", "--step")
        assert (done.code, done.err) == (0, "")
        # Four steps, so Enter is asked for three times.
        assert done.out.count("Enter: the next step") == 3
        assert "Exercise" in done.out


def test_nothing_of_these_is_left() -> None:
    assert left_of(os.getpid()) == []
