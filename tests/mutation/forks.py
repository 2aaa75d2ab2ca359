"""Pytest in forked processes: the plugins that listen to it, choose and bound its tests, and the fork itself."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import coverage
import pytest

#: What a mutant may take before it is stopped.
_MEMORY_BYTES, _FILE_BYTES = 4 << 30, 256 << 20


#: For the child processes of a test: where they write what they reached, and which test it is.
_CHILDREN, _TEST = "MUTATION_CHILDREN", "MUTATION_TEST"
#: What Python runs first in each of them: it is found by PYTHONPATH, in the copy.
_SITE = f"""
import os

if {_CHILDREN!r} in os.environ and {_TEST!r} in os.environ:
    import atexit, coverage

    cover = coverage.Coverage(
        data_file=os.path.join(os.environ[{_CHILDREN!r}], os.urandom(8).hex()),
        include=[os.path.dirname(__file__) + "/gateway/*"],
        config_file=False,
        context=os.environ[{_TEST!r}],
    )
    cover.start()
    atexit.register(lambda: (cover.stop(), cover.save()))
"""


@contextlib.contextmanager
def children_covered(into: Path) -> Iterator[Callable[[], Iterator[coverage.CoverageData]]]:
    """Whatever child processes reach in the block that end by themselves; called, it gives the data of each."""
    site = Path("sitecustomize.py")
    into.mkdir()
    site.write_text(_SITE)
    os.environ[_CHILDREN] = str(into)

    def data() -> Iterator[coverage.CoverageData]:
        for file in into.iterdir():
            found = coverage.CoverageData(str(file))
            with contextlib.suppress(coverage.exceptions.CoverageException):  # of a child that was killed while it wrote
                found.read()
                yield found

    try:
        yield data
    finally:
        del os.environ[_CHILDREN]
        site.unlink()
        shutil.rmtree(into)


class Listener:
    """Hears how long each test takes and which fail, and tells coverage which one runs."""

    def __init__(self, cover: coverage.Coverage | None = None) -> None:
        self._cover, self.seconds, self.failed = cover, dict[str, float](), set[str]()

    def pytest_collection_finish(self) -> None:
        spawning = sys.modules.get("gateway.keys.process")
        if self._cover is not None and spawning is not None:  # a child killed as too slow to end would not tell what it reached
            spawning.__dict__["_FAREWELL_S"] = 60.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if self._cover is None:
            yield
        else:
            os.environ[_TEST] = item.nodeid
            self._cover.switch_context(item.nodeid)
            yield
            self._cover.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)


class Chosen:
    """Keeps only the chosen tests, in their order."""

    def __init__(self, nodeids: list[str]) -> None:
        self._order = {nodeid: at for at, nodeid in enumerate(nodeids)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid])


class Alarm:
    """A test that takes much longer than it did without a mutant ends its process. ``note`` says which test began last."""

    #: Raised for a second try: on a busy machine a first one may have been slow for no fault of the mutant.
    patience = 1.0

    def __init__(self, seconds: dict[str, float], note: Path) -> None:
        self._seconds, self._note = seconds, note

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note.write_text(nodeid)
        signal.setitimer(signal.ITIMER_REAL, self.patience * (4 + 8 * self._seconds.get(nodeid, 0.0)))


class Loop:
    """Takes the place of pytest's loop: everything is imported and collected, and each mutant runs in a fork of that."""

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self._work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._work(session)
        return True


def run_pytest(arguments: list[str], *plugins: object) -> int:
    """Pytest in this process; its exit status."""
    # Tests that measure the event loop fail on a busy machine by themselves, which would count as kills.
    options = ["-q", "--assert=plain", "-m", "not alone", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options.append(f"--basetemp={Path.cwd()}/tmp-{os.getpid()}")  # the working directory is the copy, which goes away
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def forked(work: Callable[[], int], limit_s: float, *, aloud: bool = False) -> int | None:
    """The exit status of ``work`` in a process group of its own, negative for a signal, ``None`` when it took too long."""
    child = os.fork()
    if child == 0:
        status = 1  # an exception that reaches us is a failed test
        try:  # whatever the mutant does, this process ends here
            os.setsid()
            silent = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(0 if aloud else 3):
                os.dup2(silent, descriptor)
            if not aloud:
                signal.setitimer(signal.ITIMER_REAL, 30)  # until the first test begins
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
            status = work()
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    ended = select.poll()
    descriptor = os.pidfd_open(child)
    ended.register(descriptor, select.POLLIN)
    in_time = bool(ended.poll(limit_s * 1000))
    os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):  # the group is gone when nothing was left behind
        os.killpg(child, signal.SIGKILL)
    _, raw = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(raw) if in_time else None


def run_items(session: pytest.Session, tests: list[str]) -> int:
    """Pytest's own loop over some of the collected tests, up to the first failure."""
    by_name = {item.nodeid: item for item in session.items}
    session.items = [by_name[name] for name in tests]
    session.config.option.maxfail = 1
    session.config.pluginmanager.unregister(name="terminalreporter")
    try:
        importlib.import_module("_pytest.main").pytest_runtestloop(session)
    except session.Failed:
        return 1
    return 1 if session.testsfailed else 0
