"""`epp-client controller`: runs a data plane for each Gateway of its GatewayClasses, and writes all statuses."""
