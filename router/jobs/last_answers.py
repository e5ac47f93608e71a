"""What a job gets in place of a result: it got no lease, nobody could do it, or it took too long."""

import msgspec

from router.config.settings import Settings
from router.http.answer import Answer
from router.jobs import answers
from router.jobs.job import Course
from router.policy.retry import RetryRules, is_jobs_own
from router.policy.verdict import Outcome
from router.scheduling.pending import NoRoom, NoWorkers, Quarantined, QueueFull, Unfunded


class LastAnswers:
    """The answers by one configuration."""

    def __init__(self, settings: Settings, retry: RetryRules) -> None:
        self._settings = settings
        self._retry = retry

    def refused(self, course: Course, reason: NoRoom) -> Answer:
        """Return the answer to a job that gets no lease."""
        settings, statuses, request_id = self._settings, self._settings.error_status, course.job.request_id
        match reason:
            case Unfunded():
                return self.failed(course, is_unfunded=True)
            case NoWorkers() if course.failed:
                return self.failed(course)
            case NoWorkers():
                return answers.no_healthy_workers(statuses.no_workers, request_id)
            case QueueFull():
                return answers.queue_full(statuses.queue_full, settings.queue.max_waiting, request_id)
            case Quarantined():
                return answers.quarantined(settings.quarantine_seconds, request_id)
            case _:
                waited_s = min(settings.queue.timeout, course.limits.ceiling_s)
                return answers.queue_timeout(statuses.queue_timeout, waited_s, request_id)

    def failed(self, course: Course, *, is_unfunded: bool = False) -> Answer:
        """Return what a job gets that nobody could do: the last worker's own words where they seem to be the job's."""
        failed, request_id = course.failed, course.job.request_id
        last = failed[-1]
        if last.response is not None and is_jobs_own(course.kinds, self._retry):
            own = answers.from_worker(last.response, last.worker_url, len(failed), course.queue_ms, request_id)
            return msgspec.structs.replace(own, outcome=Outcome(last.kind))
        return answers.all_failed(self._settings.error_status.all_failed, failed, request_id, is_unfunded=is_unfunded)

    def deadline_passed(self, course: Course) -> Answer:
        """Return what a job gets whose client waits no longer."""
        status = self._settings.error_status.queue_timeout
        return answers.deadline_passed(status, course.limits.ceiling_s, course.job.request_id)
