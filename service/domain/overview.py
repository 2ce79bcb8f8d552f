"""All that GetStatus tells, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from service.domain.entities import Job
from service.domain.jobs import Jobs
from service.domain.ports import Inference, Processes, Trainer
from service.domain.recovery import Recovery
from service.domain.registry import Registry
from service.domain.scheduler import Scheduler


@dataclass
class Overview:
    """The parts whose state is told."""

    registry: Registry
    jobs: Jobs
    scheduler: Scheduler
    trainer: Trainer
    inference: Inference
    recovery: Recovery
    processes: Processes
    draining: bool = False

    def training_processes(self) -> list[tuple[Job, int, int]]:
        """Returns the jobs whose process is alive, each with its process id and resident memory in bytes."""
        alive = [(job, pid, self.processes.memory_bytes(pid)) for job, pid in self.jobs.running]
        return [(job, pid, memory) for job, pid, memory in alive if memory]

    def memory_bytes(self) -> int:
        """Returns the resident memory of this process in bytes."""
        return self.processes.memory_bytes(os.getpid())
