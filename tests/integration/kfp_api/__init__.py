"""A server that speaks the part of Kubeflow Pipelines' v2beta1 API that its Python client uses, kept in memory.

Written from what the Go server does (backend/src/apiserver of kubeflow/pipelines, 2.14 to 2.17), and as strict: names,
states, errors, filters, pages and the order of checks are the real ones as far as they are there at all.
"""
