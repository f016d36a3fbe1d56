"""A task that goes on in another process, as with Celery or any queue: its calls stay in one trace.

    pip install "llmtrace-phases[openai]"
    llmtrace serve &
    python examples/worker_process.py

With Celery: put ``llmtrace.carrier()`` into the message's headers, and ``with llmtrace.resume(...)`` into the task.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from typing import Any

from openai import OpenAI
from setup_tracing import API_KEY, BASE_URL, model_of, start

import llmtrace


def work(jobs: Queue[Any], results: Queue[Any]) -> None:
    """A worker: its own tracing, each job under the task that sent it."""
    provider = start("worker-example")
    with OpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        while (job := jobs.get()) is not None:
            with llmtrace.resume(job["trace"]), llmtrace.step("draft"):
                answer = client.chat.completions.create(
                    model=job["model"], messages=[{"role": "user", "content": job["question"]}], max_tokens=24
                )
            results.put(answer.choices[0].message.content)
    provider.shutdown()


def main() -> None:
    """Send two jobs of one task to a worker, and wait for their answers."""
    provider = start("sender-example")
    processes = multiprocessing.get_context("spawn")
    jobs, results = processes.Queue(), processes.Queue()
    worker = processes.Process(target=work, args=(jobs, results))
    worker.start()
    model = model_of()
    with llmtrace.task("two drafts", id="4711") as task:
        for question in ("What is a queue?", "What is a worker?"):
            jobs.put({"question": question, "model": model, "trace": llmtrace.carrier()})
        for _ in range(2):
            print(results.get(timeout=60))
        task.resolved()
    jobs.put(None)
    worker.join()
    provider.shutdown()


if __name__ == "__main__":
    main()
