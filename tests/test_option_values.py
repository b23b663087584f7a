"""Which text an option takes."""

import pytest
from pydantic import TypeAdapter, ValidationError

from epp_client.option_values import HostName, IpAddress, reachable


@pytest.mark.parametrize(
    ("text", "value"), [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("[fd00::1]", "fd00::1")]
)
def test_an_ip_address(text: str, value: str) -> None:
    assert TypeAdapter(IpAddress).validate_python(text) == value


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.1:80", "10.0.0.256"])
def test_what_is_no_ip_address(text: str) -> None:
    with pytest.raises(ValidationError, match="is not an IP address"):
        TypeAdapter(IpAddress).validate_python(text)


@pytest.mark.parametrize("text", ["gateway.example.com", "10.0.0.1", "fd00::1"])
def test_a_host_name(text: str) -> None:
    assert TypeAdapter(HostName).validate_python(text) == text


@pytest.mark.parametrize("text", ["", "a:80", "a/b", "*.example.com", "a b"])
def test_what_is_no_host_name(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a host name"):
        TypeAdapter(HostName).validate_python(text)


@pytest.mark.parametrize(
    ("bound", "address"),
    [
        ("0.0.0.0:9902", "127.0.0.1:9902"),
        ("[::]:9902", "[::1]:9902"),
        ("10.0.0.1:9902", "10.0.0.1:9902"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("localhost:80", "localhost:80"),
    ],
)
def test_where_a_client_on_this_machine_reaches_a_listener(bound: str, address: str) -> None:
    assert reachable(bound) == address
