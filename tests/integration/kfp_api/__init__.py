"""An in-memory fake of the v2beta1 API of Kubeflow Pipelines, as far as kfp.Client uses it.

It follows the Go server (backend/src/apiserver of kubeflow/pipelines, 2.16 to 2.17) and is as
strict: field names, states, errors, filters, pages and the order of checks are the real ones.
"""
