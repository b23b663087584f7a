"""`epp-client controller`: runs a data plane for each Gateway of its classes, and writes all statuses."""
