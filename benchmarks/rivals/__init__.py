"""The relays that the sidecar is measured beside. None of them decides anything.

nghttpx is installed; `grpc_go/` and `tonic/` are programs of our own, as small as a relay can be written
with the two libraries, and built once.
"""
