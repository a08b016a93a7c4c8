"""Jobs on a Ray cluster, as `launch.submit` starts them.

python -m launch.jobs address=http://head:8265                 the state of all
python -m launch.jobs logs=JOB address=http://head:8265        follow one; Ctrl-C leaves the job alone
python -m launch.jobs stop=JOB address=http://head:8265        end one; submitted again, it resumes
"""

import os
import time

from pydantic import Field

from data_tools.cli import Arguments, run_command
from launch.cluster.jobs import POLL_SECONDS, client, follow_job
from launch.console import console


class Jobs(Arguments):
    address: str = Field(
        os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"), description="of the cluster's dashboard"
    )
    logs: str | None = Field(None, description="a job whose log to follow")
    stop: str | None = Field(None, description="a job to end")


def main(arguments: Jobs) -> int:
    """Follow a job, end one, or list all."""
    jobs = client(arguments.address)
    if arguments.logs:
        return int(not follow_job(jobs, arguments.logs, arguments.address))
    if arguments.stop:
        jobs.stop_job(arguments.stop)
        while not (state := jobs.get_job_status(arguments.stop)).is_terminal():
            time.sleep(POLL_SECONDS)
        console.print(f"{arguments.stop}  {state.value}", markup=False)
        return 0
    for job in sorted(jobs.list_jobs(), key=lambda job: job.start_time or 0):
        if job.submission_id:
            console.print(f"{job.submission_id}  {job.status.value}  {job.message or ''}", markup=False)
    return 0


if __name__ == "__main__":
    run_command(main, Jobs, __doc__)
