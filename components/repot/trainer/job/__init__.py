"""Training as a Kubernetes Job.

In the pipeline task that waits for the Job:

    run_job      create, adopt or replace the Job, follow it, and return the training record
    spec         the Job and Service objects
    diagnosis    why a Job waits or failed
    api          the few calls of the Kubernetes API

In the Job's pods:

    worker       the program that a pod runs

In both:

    heartbeat    how workers notice that the task is gone
    termination  what SIGTERM does, and the exit codes of workers
"""
