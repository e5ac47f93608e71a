"""Runs a module's tests against its mutants, each in a forked process. Modules and tests are loaded only once.

The mutant of a Python function replaces the function's code in the running program. The mutant of a script replaces the
script's file in the copied tree.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from gc import get_objects
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from hypothesis import Phase, settings

from tools.mutants.mutant import Mutant

_OPTIONS = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout", "--tb=short")
# A test that takes this many times as long as before counts as hanging.
_PATIENCE = 5
_LEAST_S = 5.0
# Added to each test's number of kills, so that tests without a kill are also tried, the fastest first.
_BEFORE_ANY = 0.2


@dataclass(slots=True)
class Seen:
    """What the tests do without a mutant: how long each takes, which lines of the module it runs, and which fail."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def outcomes(tree: Path, module: str, mutants: Iterable[Mutant], tests: list[str], until: float) -> list[str]:
    """Return the outcome of each mutant for which there was time: `killed`, `survived` or `no test`.

    `tests` are files, and options of pytest that choose among their tests. Raises RuntimeError if the tests fail
    without a mutant.
    """
    told = tree / "outcomes.json"

    def child() -> int:
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path[:0] = [str(tree)]
        # The first failing example is enough. Profiles that the tests load inherit this.
        settings.register_profile("first", phases=(Phase.explicit, Phase.generate))
        settings.load_profile("first")
        trials = _Trials(tree / module, list(mutants), until)
        status = pytest.main([*_OPTIONS, *tests], plugins=[trials])
        told.write_text(json.dumps(trials.outcomes or trials.seen.failed))
        return status or len(trials.seen.failed)

    if _forked(child, tree / "output.txt") != 0:
        raise RuntimeError(f"{module}: its tests fail without a mutant: {told.read_text()}")
    found: list[str] = json.loads(told.read_text())
    return found


class _Trials:
    """A plugin of pytest that tries each mutant, instead of running each test once."""

    def __init__(self, path: Path, mutants: list[Mutant], until: float) -> None:
        self.outcomes: list[str] = []
        self._path = path
        self._mutants = mutants
        self._until = until
        self.seen = Seen()
        self._kills: Counter[str] = Counter()
        self._lines: set[int] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once. Then run, for each mutant, the tests that reach its lines."""
        assert not session.testsfailed, "not all can be collected"
        told, output = Path("seen.json"), Path("output.txt")

        def observe() -> int:
            _run(session.items, self._observed)
            told.write_text(json.dumps([self.seen.seconds, self.seen.lines, self.seen.failed]))
            return 0

        assert _forked(observe, output) == 0
        self.seen = Seen(*json.loads(told.read_text()))
        if self.seen.failed:
            return True
        source = self._path.read_bytes()
        functions = list(_functions(self._path))
        for mutant in self._mutants:
            if time.monotonic() > self._until:
                break
            self.outcomes.append(self._tried(mutant, source, session.items, functions))
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the tests that fail."""
        if report.failed:
            self.seen.failed.append(report.nodeid)

    def _observed(self, item: pytest.Item, run: Callable[[], object]) -> bool:
        self._lines = set()
        since = time.monotonic()
        if self._path.suffix == ".py":
            threading.settrace(self._trace)
            sys.settrace(self._trace)
        run()
        sys.settrace(None)
        self.seen.seconds[item.nodeid] = time.monotonic() - since
        self.seen.lines[item.nodeid] = sorted(self._lines)
        return True

    def _trace(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        return self._trace_line if frame.f_code.co_filename == str(self._path) else None

    def _trace_line(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        self._lines.add(frame.f_lineno)
        return self._trace_line

    def _tried(self, mutant: Mutant, source: bytes, items: list[pytest.Item], functions: list[FunctionType]) -> str:
        wanted = set(range(*mutant.lines(source)))
        is_script = self._path.suffix != ".py"
        fitting = [item for item in items if is_script or wanted & set(self.seen.lines[item.nodeid])]
        if not fitting:
            return "no test"
        fitting.sort(key=lambda item: self.seen.seconds[item.nodeid] / (self._kills[item.nodeid] + _BEFORE_ANY))
        killer = Path("killer.txt")
        killer.write_text("")

        def trial() -> int:
            if not is_script:
                _put_in_place(mutant, source, self._path, functions)
            self.seen.failed = []
            _run(fitting, self._passes)
            killer.write_text("".join(self.seen.failed[:1]))
            return len(self.seen.failed)

        self._path.write_bytes(mutant.applied(source))  # for programs that tests start
        try:
            if _forked(trial, Path("output.txt")) == 0:
                return "survived"
            self._kills[killer.read_text()] += 1
            return "killed"
        finally:
            self._path.write_bytes(source)

    def _passes(self, item: pytest.Item, run: Callable[[], object]) -> bool:
        # If the test hangs, SIGALRM ends the process.
        signal.setitimer(signal.ITIMER_REAL, max(_LEAST_S, _PATIENCE * self.seen.seconds[item.nodeid]))
        run()
        return not self.seen.failed


def _run(items: list[pytest.Item], each: Callable[[pytest.Item, Callable[[], object]], bool]) -> None:
    for item, following in zip(items, [*items[1:], None], strict=True):

        def run(item: pytest.Item = item, following: pytest.Item | None = following) -> object:
            return item.ihook.pytest_runtest_protocol(item=item, nextitem=following)

        if not each(item, run):
            return


def _functions(path: Path) -> Iterator[FunctionType]:
    """Yield all functions of a file that are in memory, except those inside other functions."""
    for found in get_objects():
        if isinstance(found, FunctionType) and found.__code__.co_filename == str(path):
            yield found


def _put_in_place(mutant: Mutant, source: bytes, path: Path, functions: list[FunctionType]) -> None:
    before = dict(_codes(compile(source, str(path), "exec")))
    after = dict(_codes(compile(mutant.applied(source), str(path), "exec")))
    changed = [key for key, code in before.items() if after[key] != code]
    assert changed, mutant
    for key in changed:
        held = [function for function in functions if _key(function.__code__) == key]
        assert held, key
        for function in held:
            function.__code__ = after[key]


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """Yield the code of all functions, except those inside other functions."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x02:  # CO_NEWLOCALS: a function, not a class
                yield _key(constant), constant
            else:
                yield from _codes(constant)


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _forked(child: Callable[[], int], output: Path) -> int:
    """Run `child` in a forked process. Returns its result, or the negative number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setsid()
            written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(written, 1)
            os.dup2(written, 2)
            status = min(child(), 98)
        except BaseException as error:  # noqa: BLE001  (told to the parent by its status)
            os.write(2, repr(error).encode())
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # processes that its tests have left
    return os.waitstatus_to_exitcode(status)
