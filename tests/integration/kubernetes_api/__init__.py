"""An in-memory server for a part of the Kubernetes API: objects, permissions and errors.

It runs nothing: no scheduler, no controllers, no kubelet. A test puts their results into the store,
or starts a `jobs.JobController`. Request bodies are checked against the published OpenAPI schemas,
permissions are those of roles, and errors are the Status objects of the real server.
"""
