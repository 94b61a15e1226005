"""A server that speaks a part of the Kubernetes API, kept in memory: objects, who may do what, and its errors.

It runs nothing: no scheduler, no controllers, no kubelet. A test that needs what these would do puts it into the store.
Bodies are checked against the published OpenAPI schemas, rights are those of roles, and what is refused is refused with
the Status that the real server answers.
"""
