"""Our own suite for gateways of InferencePools, stricter than the official ones.

It runs against any gateway of the Gateway API. `checks` has what is asked of it, `site` the objects and
requests, `workloads` the Pods, `run` the order and the report. Only `mutants`, `mutant` and `data_planes`
know this project's gateway: they break it, to prove that each check can fail.
"""
