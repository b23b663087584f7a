"""Reads objects from YAML or JSON text, with the line of each field. Pure.

Only syntax: documents, lists, duplicate keys, limits against hostile files. The meaning of objects is in
`manifests.world`, `endpoints.parse`, `pool.parse` and `pool.resolve`.
"""
