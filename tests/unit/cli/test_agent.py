"""How the agent takes signals: real ones, sent to this process."""

import asyncio
import os
import signal
import sys

import pytest

from router.cli.agent.agent import Agent, AgentOptions
from tests.support.eventually import eventually

SLEEPS = sys.executable, "-c", "import time; time.sleep(100)"


async def test_a_signal_that_comes_twice_at_once_is_one(caplog: pytest.LogCaptureFixture) -> None:
    """timeout(1) signals a process and its group: that does not hurry the agent, so running jobs are waited for."""
    caplog.set_level("INFO")
    agent = Agent(AgentOptions(SLEEPS, {"url": "http://127.0.0.1:1"}, 30, 100, 10), [])
    running = asyncio.create_task(agent.run())
    await eventually(lambda: any("waiting for" in line for line in caplog.messages), what="the command")
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 128 + signal.SIGTERM
    assert [line.partition(":")[0] for line in caplog.messages if "SIGTERM" in line] == ["SIGTERM"]
