"""What `epp-client status`, `top` and `tap` draw on a terminal, and how they find and ask the admin page of
a sidecar.

What draws is pure: the JSON of the admin page in, text out. `admin`, `target`, `feed`, `screen` and
`following` are shells.
"""
