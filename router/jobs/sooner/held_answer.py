"""Holds back the answer of a job that leaves something behind, until the scheduler knows of that.

A client that has its answer may send the job again at once, and any process may get it.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from router.http.answer import Answer
from router.jobs.job import JobRun


class HeldAnswer:
    """The answer of `run`, held back from now on until `let_go`. Used as a context, it is let go if its body fails."""

    __slots__ = ("_answers", "_deliver", "_is_free")

    def __init__(self, run: JobRun) -> None:
        self._answers: list[Answer | None] = []
        self._is_free = False
        if run.deliver is not None:
            self._deliver = run.deliver
            run.deliver = self._take

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.let_go()

    def until(self, tell: Callable[[Callable[[], None]], None]) -> None:
        """Have `tell` tell the scheduler; it gets what is to be called when the scheduler knows."""
        with self:
            tell(self.let_go)

    def let_go(self) -> None:
        """Let the answer out: now, or when it comes."""
        self._is_free = True
        answers, self._answers = self._answers, []
        for answer in answers:
            self._deliver(answer)

    def _take(self, answer: Answer | None) -> None:
        if self._is_free:
            self._deliver(answer)
        else:
            self._answers.append(answer)
