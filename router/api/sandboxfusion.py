"""The part of SandboxFusion's own API that the router describes and the local worker has.

Fields, defaults and statuses are the SandboxFusion server's. It ignores unknown fields, and so do these models.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

Language = Literal[
    "python", "python2", "cpp", "nodejs", "go", "go_test", "java", "php", "csharp", "bash", "typescript", "sql", "rust",
    "cuda", "lua", "R", "perl", "D_ut", "ruby", "scala", "julia", "pytest", "junit", "kotlin_script", "jest", "verilog",
    "python_gpu", "lean", "swift", "racket", "gtest", "react",
]  # fmt: skip


class RunStatus(StrEnum):
    """How a job ended. SandboxError is a failure of the worker, not of the code."""

    SUCCESS = "Success"
    FAILED = "Failed"
    SANDBOX_ERROR = "SandboxError"


class CommandStatus(StrEnum):
    """How one command of a job ended: the compiler or the program."""

    FINISHED = "Finished"
    ERROR = "Error"
    TIME_LIMIT_EXCEEDED = "TimeLimitExceeded"


class RunCodeRequest(BaseModel):
    """A job: code to compile, if its language needs that, and to run."""

    code: str = Field(description="the code to run", examples=['print("hello")'])
    language: Language = Field(description="the language or execution mode to run the code", examples=["python"])
    compile_timeout: float = Field(10, description="seconds that compiling may take")
    run_timeout: float = Field(10, description="seconds that the program may run")
    memory_limit_MB: int = Field(-1, description="memory that the program may use; -1: no limit")  # noqa: N815
    stdin: str | None = Field(None, description="text for the program's standard input")
    files: dict[str, str | None] = Field({}, description="files to create before the run: path to base64 content")
    fetch_files: list[str] = Field([], description="paths of files to return after the run")


class CommandResult(BaseModel):
    """How one command ended; `return_code` is absent if it was stopped."""

    status: CommandStatus
    execution_time: float | None = Field(None, description="seconds")
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeResponse(BaseModel):
    """A job's result. `status` comes first, as the worker writes it."""

    status: RunStatus
    message: str
    compile_result: CommandResult | None = None
    run_result: CommandResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


class RunJupyterRequest(BaseModel):
    """Cells to run one after another in a Jupyter kernel."""

    cells: list[str] = Field(description="blocks of code", examples=[["a = 123", "a"]])
    cell_timeout: float = Field(0, description="seconds that one cell may run; 0: no limit")
    total_timeout: float = Field(45, description="seconds that all cells together may run")
    kernel: Literal["python3"] = "python3"
    files: dict[str, str] = Field({}, description="files to create before the run: path to base64 content")
    fetch_files: list[str] = Field([], description="paths of files to return after the run")
